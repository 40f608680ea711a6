# Every command sets up what it needs: a virtual environment in .venv, reused while it is up to date.
#
#   make demo        train MiniLM with the fused losses on the bundled sample; table and picture     (about 6 minutes)
#   make test        lint, types, all tests that run without a GPU                                   (about 10 minutes)
#   make test-full   the same and the tests marked "full" (slow real components)
#   make gpu         build, test and measure on an NVIDIA GPU -> build/gpu (no network needed where python3 has torch
#                    for CUDA); GPU_ARGS="--minutes 10 --tune" and so on: python -m benchmarks.gpu --help
#   make bench       CPU benchmarks -> benchmarks/results/
#   make lucene      Lucene's BM25 for mining negatives, with a Java of its own, into the environment
#   make venv        the set-up alone
#   make format      ruff and clang-format, in place
PYTHON ?= python3
# The build to install where the environment has no torch yet. Wherever another torch between 2.11 and 2.14 is wanted
# (CUDA, say), name it: make TORCH=torch==2.14.1 test
TORCH ?= torch==2.13.0

# A file's tests stay in one process: what they share (programs built, kernels compiled) is made once. Files begin in
# their own order, not xdist's: the long ones (kernels, simt, triton) before the many short ones of tests/training,
# which fill up what is left, so that no process waits for another's last file.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder

GPU_OUT ?= build/gpu
GPU_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.up-to-date
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
CXX_FILES = $(shell git ls-files -co --exclude-standard '*.cpp' '*.h' '*.cu' '*.cuh')
NVCC := $(shell command -v nvcc 2>/dev/null)

.PHONY: demo test test-full lucene gpu lint types bench venv format cuda clean

venv: $(STAMP)

$(STAMP): pyproject.toml setup.py Makefile $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit("wassrank needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install -q --disable-pip-version-check '$(TORCH)'
	@$(BIN)/pip install -q --disable-pip-version-check numpy ninja 'setuptools>=77' wheel 'pybind11>=2.13'
	$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation -e '.[dev]'
	@touch $@

# Where there is an nvcc the tests' build holds the CUDA kernels too, compiled for sm_80, sm_90 and sm_100.
cuda: $(STAMP)
ifneq ($(NVCC),)
	WASSRANK_CUDA=1 $(BIN)/python setup.py -q build_ext --inplace
else
	@echo "no nvcc: the CUDA kernels are not compiled"
endif

demo: $(STAMP)
	$(BIN)/python -m training.demo

test: lint types cuda
	$(BIN)/python -m pytest $(PARALLEL) -m 'not gpu and not full'

lucene: $(STAMP)
	$(BIN)/python -m training.bm25 --install

test-full: lint types cuda lucene
	$(BIN)/python -m pytest $(PARALLEL) -m 'not gpu'

# A Python that has torch for CUDA is used as it is: it may be all there is, on a machine without a network.
gpu:
	@python="$(PYTHON)"; \
	$$python -c 'import sys, torch; sys.exit(torch.version.cuda is None)' 2>/dev/null \
		|| { $(MAKE) --no-print-directory venv && python=$(BIN)/python; } \
		&& $$python -m benchmarks.gpu --out $(GPU_OUT) $(GPU_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf build dist *.egg-info wassrank/_C*.so
