"""What is built tells the truth about itself, and the package works where nothing could be built."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import wassrank
from wassrank import _C
from wassrank.backends import missing, resolve_backend

ROOT = Path(__file__).parent.parent


def run_python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


WITHOUT_NATIVE = """
import sys, warnings
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "wassrank._C":
            raise ImportError("no such library")
sys.meta_path.insert(0, Refuse())
import torch, wassrank
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    scores, labels = torch.randn(4, 8, requires_grad=True), torch.randint(0, 4, (4, 2))
    for _ in range(3):
        wassrank.grade_wasserstein(scores, labels).backward()
assert wassrank.resolve_backend("cpu") == "torch"
assert scores.grad.isfinite().all()
said = [str(w.message) for w in said if "wassrank" in str(w.message)]
assert len(said) == 1, said
assert "plain-torch backend" in said[0] and "no such library" in said[0], said
try:
    wassrank.grade_wasserstein(scores, labels, backend="native")
except ValueError as error:
    assert "C++ extension is not built (no such library)" in str(error), error
else:
    raise AssertionError("native ran without the extension")
"""


def test_without_the_extension_plain_torch_runs_and_says_so_once() -> None:
    run = run_python(WITHOUT_NATIVE)
    assert run.returncode == 0, run.stderr


def test_build_goes_on_without_a_compiler(tmp_path: Path) -> None:
    """setup.py ends well, says what will be used instead, and leaves nothing half-built."""
    run = subprocess.run(
        [
            sys.executable,
            "setup.py",
            "-q",
            "build_ext",
            "--build-lib",
            str(tmp_path / "lib"),
            "--build-temp",
            str(tmp_path / "t"),
        ],
        env=os.environ | {"CXX": "no-such-compiler", "WASSRANK_CUDA": "0"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    assert "no native kernels, the plain-torch backend will be used" in run.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_importing_needs_no_optional_package() -> None:
    script = (
        "import sys\n"
        "for name in ('triton', 'transformers', 'scipy', 'matplotlib', 'ot'): sys.modules[name] = None\n"
        "import torch, wassrank\n"
        "wassrank.grade_wasserstein(torch.zeros(2, 4), torch.zeros(2, 2, dtype=torch.long))\n"
    )
    run = run_python(script)
    assert run.returncode == 0, run.stderr


def test_versions_agree() -> None:
    assert _C.build_info()["version"] == wassrank.__version__


def test_backends_say_what_they_lack() -> None:
    assert resolve_backend("cpu") == "native"
    assert resolve_backend(torch.device("cpu"), "torch") == "torch"
    run = run_python("import wassrank; wassrank.resolve_backend('cpu', 'triton')", TRITON_INTERPRET="0")
    assert "ValueError: backend='triton' cannot run on 'cpu' tensors here" in run.stderr
    assert missing("native", "meta") == "it serves CPU and CUDA tensors"


NVCC = shutil.which("nvcc")


@pytest.mark.skipif(NVCC is None, reason="no nvcc: the CUDA kernels are not compiled")
def test_cuda_kernels_are_built_for_ampere_hopper_and_blackwell() -> None:
    assert {"80", "90", "100"} <= set(_C.build_info()["cuda_architectures"])


@pytest.mark.skipif(NVCC is None, reason="no nvcc: the CUDA kernels are not compiled")
def test_cuda_kernels_spill_nothing() -> None:
    """Registers and local memory of every kernel in the library as built, read back with cuobjdump."""
    triton = importlib.util.find_spec("triton")
    assert triton is not None
    assert triton.origin is not None
    cuobjdump = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    assert _C.__file__ is not None
    listing = subprocess.run([cuobjdump, "-res-usage", _C.__file__], capture_output=True, text=True, check=True).stdout
    usages = re.findall(r"Function ([\w$]+):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", listing)
    assert len(usages) >= 3 * 3, "forward, reduce and backward for three architectures"
    for name, registers, stack, local in usages:
        assert int(local) == 0, f"{name} spills {local} bytes"
        assert int(stack) == 0, f"{name} has a stack frame of {stack} bytes"
        assert int(registers) <= 128, f"{name} takes {registers} registers"
