"""What is built tells the truth about itself, and the package works where nothing could be built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import wassrank
from wassrank import _C
from wassrank.arguments import LONGEST_ON_CUDA
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
needs_cuda_code = pytest.mark.skipif(not _C.build_info()["cuda_architectures"], reason="built without CUDA")


def sizes(most: int) -> st.SearchStrategy[int]:
    """Every order of magnitude alike, and the neighbours of powers of two."""
    near = st.builds(
        lambda power, off: max(0, 2**power + off), st.integers(0, most.bit_length() - 1), st.integers(-3, 3)
    )
    return st.one_of(near, st.integers(0, most), st.integers(0, 5000))


@pytest.mark.skipif(NVCC is None, reason="no nvcc: the CUDA kernels are not compiled")
def test_cuda_kernels_are_built_for_ampere_hopper_and_blackwell() -> None:
    info = _C.build_info()
    assert {"80", "90", "100"} <= set(info["cuda_architectures"])
    assert re.fullmatch(r"\d+\.\d+", info["cuda_version"])
    assert _C.cuda_driver_version() >= 0, "also without a driver"


@needs_cuda_code
@settings(max_examples=500, deadline=None)
@given(
    dtype=st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
    Q=sizes(2**33),
    width=sizes(2**30 + 100),
    in_a_batch=st.booleans(),
    in_batch=st.sampled_from([-1, 0]),
    num_levels=st.integers(1, 32),
    reduced=st.booleans(),
    affine=st.booleans(),
)
@example("float32", 2**31 + 5, 100, False, 0, 8, True, False)  # four rows a block
@example("float32", 2**31, 4096, False, 0, 8, True, False)  # one: refused
@example("float64", 3, 2**30 - 1, False, 0, 32, True, True)
@example("bfloat16", 2**15, 2**30 - 1, True, 0, 8, False, False)
def test_launches_stay_within_cudas_limits_and_cover_all_rows(
    dtype: str, Q: int, width: int, in_a_batch: bool, in_batch: int, num_levels: int, reduced: bool, affine: bool
) -> None:
    """Or are refused: where rows have 2^30 columns, or are so many that no grid holds them."""
    K = width // max(Q, 1) if in_a_batch else width
    N = Q * K if in_a_batch else width
    try:
        launches = _C.level_losses_launches(dtype, Q, N, K, in_batch, num_levels, reduced, affine=affine)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
    assert ("2^30 or more" in refused) == (Q > 0 and N >= 2**30)
    assert "2^31 - 1 blocks" not in refused or Q >= 2**31
    if refused:
        return
    kernels = [launch["kernel"] for launch in launches]
    forward, reduce, backward = ["forward_kernel"] * (Q > 0), ["reduce_kernel"], ["backward_kernel"] * (Q > 0 and N > 0)
    assert kernels == forward + reduce * (reduced or Q == 0) + backward
    for launch in launches:
        (x, y, z), (width, height, depth) = launch["grid"], launch["block"]
        assert 1 <= x < 2**31
        assert 1 <= y <= 65535
        assert z == depth == 1
        assert width % 32 == 0
        assert 1 <= width * height <= 1024
        assert launch["shared_bytes"] <= 48 << 10
        if launch["kernel"] == "forward_kernel":
            assert width * height <= (256 if affine else 512)  # its launch bounds
        if launch["kernel"] != "reduce_kernel":
            assert (x - 1) * height < Q <= x * height


@needs_cuda_code
@settings(max_examples=300, deadline=None)
@given(
    dtype=st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
    Q=sizes(2**33),
    width=sizes(2**30 + 100),
    layout=st.sampled_from(["dense", "in_batch", "packed"]),
    in_batch=st.sampled_from([-1, 0]),
    p=st.sampled_from([1.0, 2.0]),
)
@example("float32", 2**31 + 5, 100, "dense", 0, 1.0)
@example("float64", 3, 2**30 - 1, "dense", 0, 2.0)
@example("float32", 5, 6000, "packed", -1, 2.0)
def test_sorted_launches_cover_all_rows_and_bound_their_workspace(
    dtype: str, Q: int, width: int, layout: str, in_batch: int, p: float
) -> None:
    K = width // max(Q, 1) if layout == "in_batch" else width
    N = Q * K if layout == "in_batch" else width
    packed = layout == "packed"
    try:
        launches, workspace = _C.sorted_losses_launches(dtype, Q, N, K, in_batch, p, reduced=True, packed=packed)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
    assert ("2^30 or more" in refused) == (Q > 0 and N >= 2**30 and not packed)
    assert "2^31 - 1 blocks" not in refused or Q >= 2**31
    if refused:
        return
    names = [launch["kernel"] for launch in launches]
    rows = Q > 0
    assert names == ["sorted_forward_kernel"] * rows + ["reduce_kernel"] + ["sorted_backward_kernel"] * (rows and N > 0)
    a_point = 8 if p == 1 else 24 + (8 if dtype == "float64" else 4)
    assert workspace <= max(2**28, 32 * (K + 1) * a_point) or (packed and workspace == (N + Q) * a_point)
    for launch in launches:
        (x, y, z), (threads, height, depth) = launch["grid"], launch["block"]
        assert 1 <= x < 2**31
        assert 1 <= y <= 65535
        assert z == depth == 1
        assert threads % 32 == 0
        assert launch["shared_bytes"] <= 48 << 10
        if launch["kernel"] != "reduce_kernel":
            assert 32 <= threads * height <= 256  # its launch bounds
            in_one = x * height >= Q
            assert in_one or (launch["kernel"] == "sorted_forward_kernel" and workspace > 0 and height == 1)


@needs_cuda_code
def test_orders_are_launched_for_the_rows_that_python_hands_over() -> None:
    for dtype, longest in LONGEST_ON_CUDA.items():
        is_double = dtype == torch.float64
        for columns in (1, 128, 129, 1024, 4096, longest):
            (launch,) = _C.grade_order_launches(is_double, 7, columns)
            assert launch["grid"] == (7, 1, 1)
            assert launch["shared_bytes"] <= 48 << 10
        with pytest.raises(ValueError, match=f"rows of {longest + 1} values"):
            _C.grade_order_launches(is_double, 7, longest + 1)
    assert _C.grade_order_launches(False, 0, 5) == _C.grade_order_launches(False, 5, 0) == []
    with pytest.raises(ValueError, match=r"2\^31 - 1 blocks"):
        _C.grade_order_launches(False, 2**31, 5)


@needs_cuda_code
@settings(max_examples=300, deadline=None)
@given(
    dtype=st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
    pairs=sizes(2**33),
    n=sizes(2**30 + 100),
    m=sizes(2**30 + 100),
    weighted=st.booleans(),
    wanted=st.integers(0, 15),
    packed=st.booleans(),
)
@example("float32", 1000, 1024, 1024, True, 15, False)
@example("float32", 1000, 7, 7, False, 3, False)
@example("float64", 3, 2**30 - 1, 1, True, 15, False)
@example("float32", 5, 6000, 100_000, True, 0, True)
def test_pairs_are_all_covered_and_their_workspace_is_bounded(
    dtype: str, pairs: int, n: int, m: int, weighted: bool, wanted: int, packed: bool
) -> None:
    try:
        launches, workspace = _C.wasserstein_1d_launches(dtype, pairs, n, m, weighted, wanted, packed=packed)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
    assert ("2^30 or more" in refused) == (max(n, m) >= 2**30 and not packed)
    assert "2^31 - 1 blocks" not in refused or pairs >= 2**31
    if refused:
        return
    paired = not weighted and not packed and n == m
    assert [launch["kernel"] for launch in launches] == [f"{'paired' if paired else 'coupled'}_kernel"] * (pairs > 0)
    numbers = 1 + bool(wanted & 3) + bool(wanted & 12)
    a_point = 8 * numbers + (8 if dtype == "float64" else 4)
    assert workspace <= max(2**28, 32 * (n + m) * a_point) or (packed and workspace == (n + m) * a_point)
    for launch in launches:
        (x, y, z), (threads, height, depth) = launch["grid"], launch["block"]
        assert 1 <= x < 2**31
        assert y == z == depth == 1
        assert threads % 32 == 0
        assert launch["shared_bytes"] <= 64 << 10
        assert 32 <= threads * height <= 512  # its launch bounds
        assert x * height >= pairs or (workspace > 0 and height == 1)
        assert paired or packed or workspace or (n + m) * height * a_point <= launch["shared_bytes"]


TUNED = 999  # a compute capability that no GPU has


@needs_cuda_code
def test_a_tuning_changes_the_launches_of_its_capability_alone() -> None:
    arguments = ("float32", 64, 4096, 4096, 0, 8, True)
    defaults = _C.tuning(0)
    try:
        _C.set_tuning(TUNED, {"max_team": 128, "backward_threads": 64})
        assert _C.tuning(TUNED) == defaults | {"max_team": 128, "backward_threads": 64}
        assert _C.tuning(90) == _C.tuning(0) == defaults
        for affine, default in (False, [512, 512, 256]), (True, [128, 512, 256]):
            blocks = [
                [
                    launch["block"][0]
                    for launch in _C.level_losses_launches(*arguments, capability=capability, affine=affine)
                ]
                for capability in (0, 90, TUNED)
            ]
            assert blocks == [default, default, [128, 512, 64]]
    finally:
        _C.set_tuning(TUNED, {})
    assert _C.tuning(TUNED) == defaults
