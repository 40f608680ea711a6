"""The CUDA kernels of the batch-Gaussian distance, run on the CPU by the SIMT machine of tests/simt, against
wassrank/gaussian/plain_passes.py."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from simt.driver import (
    ROOT,
    SANITIZERS,
    SIMT,
    Driver,
    Mutant,
    Results,
    broken_copy,
    compiled,
    every_mutant,
    source_of,
)
from simt.gaussian import (
    CALLS,
    FEW_CHUNKS,
    MUTANTS,
    RACED,
    RACED_FIRST,
    SANITIZED,
    Call,
    Found,
    end_of,
    huge,
    poisoned,
    stray,
)
from torch import Tensor

from wassrank.gaussian.passes import Row

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the SIMT machine is built with g++")
PROGRAM = "gaussian_wasserstein"


class Programs:
    """The kernels built each way, two at a time, and kernels broken on purpose, when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(2)
        self.mains = {sanitizer: self.pool.submit(self.main, sanitizer) for sanitizer in SANITIZERS}
        self.whole = {sanitizer: self.pool.submit(self.build, folder, sanitizer) for sanitizer in SANITIZERS}

    def main(self, sanitizer: str) -> Path:
        return compiled(self.folder / f"main_{sanitizer}.o", sanitizer, ["-c", str(SIMT / f"{PROGRAM}.cpp")])

    def build(self, folder: Path, sanitizer: str, sources: Path = ROOT / "csrc") -> Driver:
        return Driver.build(folder, PROGRAM, sanitizer, self.mains[sanitizer].result(), sources)

    def broken(self, mutant: Mutant) -> Driver:
        home = self.folder / mutant.name.replace(" ", "_")
        return self.build(home, mutant.sanitizer, broken_copy(mutant, home))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    programs = Programs(tmp_path_factory.mktemp("simt_gaussian"))
    yield programs
    programs.pool.shutdown(cancel_futures=True)


def results(driver: Driver, calls: list[Call]) -> list[Found]:
    process, data = driver.start(calls)
    assert process.returncode == 0, process.stderr[-5000:]
    reader = Results(data)
    found = [call.read(reader) for call in calls]
    assert reader.at == len(data)
    return found


def check(found: Found, wanted: Found) -> None:
    broken = wanted.row[:, Row.INVERSE].isnan()
    wanted.row[broken, Row.TOP] = found.row[broken, Row.TOP]  # nobody will look at it
    for name, one, other in zip(Found._fields, found, wanted, strict=True):
        left = poisoned(other) if name == "of_tile" else torch.zeros_like(other, dtype=torch.bool)
        assert torch.equal(poisoned(one), left), name
        double = one.dtype == torch.float64
        rtol, atol = (1e-12, 1e-14) if double else (torch.finfo(one.dtype).eps, torch.finfo(one.dtype).smallest_normal)
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text: f"{name}: {text}")  # noqa: B023


@pytest.fixture(scope="module")
def found(programs: Programs) -> dict[str, Found]:
    return dict(zip([c.name for c in CALLS], results(programs.whole["plain"].result(), CALLS), strict=True))


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_passes_are_what_plain_torch_says(call: Call, found: dict[str, Found]) -> None:
    """All that is to be written is written, and nothing else."""
    check(found[call.name], call.expected())


def test_names_are_different() -> None:
    assert len({c.name for c in CALLS}) == len(CALLS)


def bits(tensor: Tensor) -> Tensor:
    """With one NaN for all."""
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]
    return torch.where(tensor.isnan(), torch.nan, tensor).view(integers)


def test_memory_is_touched_only_where_it_may_be(programs: Programs, found: dict[str, Found]) -> None:
    """And the bits are the same in another run of another build."""
    for call, result in zip(SANITIZED, results(programs.whole["address"].result(), SANITIZED), strict=True):
        for one, other in zip(result, found[call.name], strict=True):
            assert torch.equal(bits(one), bits(other)), call


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param(RACED_FIRST, id="each way past a barrier"),
        pytest.param([c for c in RACED if c not in RACED_FIRST], id="others", marks=pytest.mark.full),
    ],
)
def test_threads_do_not_race(calls: list[Call], programs: Programs) -> None:
    results(programs.whole["thread"].result(), calls)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("value", [-1, 8, math.nan, math.inf, -math.inf])
def test_a_label_that_cannot_be_makes_its_row_none(value: float, dense: bool, programs: Programs) -> None:
    right, wrong = stray(value, dense)
    others = torch.arange(4) != 1
    masked = wrong.a._replace(mask=torch.arange(12) != (1 if dense else 4))
    hidden = Call(**{**vars(wrong), "a": masked})
    whole, seen, unseen = results(programs.whole["plain"].result(), [right, wrong, hidden])
    assert seen.row[1, Row.INVERSE].isnan()
    assert torch.equal(seen.row[others], whole.row[others])
    assert seen.gradient[1].isnan().all()
    assert seen.gradient[others].isfinite().all()
    assert all(tensor.isfinite().all() for tensor in unseen if tensor is not unseen.of_tile)


def test_blocks_stride_over_columns(programs: Programs) -> None:
    (call,) = (c for c in CALLS if c.name == FEW_CHUNKS.input)
    check(results(programs.broken(FEW_CHUNKS), [call])[0], call.expected())


def test_elements_beyond_32_bits_are_found(programs: Programs) -> None:
    call = huge()
    check_end(results(programs.whole["plain"].result(), [call])[0], end_of(call))


def check_end(found: Found, wanted: Found) -> None:
    """Of the rows' chunks of columns only the first and the last are there."""
    whole = []
    for name, one, other in zip(Found._fields, found, wanted, strict=True):
        written = ~poisoned(one)
        assert written[..., -500:].all(), name
        assert written.all() or name in ("P", "E_T", "gradient", "of_tile", "of_parts")
        whole.append(torch.where(written, one, other))
    check(Found(*whole), wanted)


def test_mutants_are_of_the_code_as_it_is() -> None:
    for mutant in (*MUTANTS, FEW_CHUNKS):
        source_of(mutant)


@every_mutant(MUTANTS, huge={"huge"})
def test_a_broken_kernel_is_noticed(mutant: Mutant, programs: Programs) -> None:
    is_huge = mutant.input == "huge"
    call = huge() if is_huge else next(c for c in CALLS if c.name == mutant.input)
    process, data = programs.broken(mutant).start([call])
    if mutant.seen not in ("poison", "numbers"):
        assert process.returncode != 0
        assert mutant.seen in process.stderr
        return
    result, wanted = call.read(Results(data)), end_of(call) if is_huge else call.expected()
    left = any(poisoned(one).any() for name, one in result._asdict().items() if name != "of_tile")
    assert is_huge or left == (mutant.seen == "poison")
    compare: Callable[[Found, Found], None] = check_end if is_huge else check
    with pytest.raises(AssertionError):
        compare(result, wanted)
