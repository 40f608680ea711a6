"""The CUDA kernels of `wassrank::wasserstein_1d`, run on the CPU by the SIMT machine of tests/simt, against the CPU's:
plainly, with every output poisoned and fenced in; with the sanitizers; and broken on purpose."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from simt.driver import (
    NUMBERS,
    OVERFLOW,
    POISON,
    RACE,
    ROOT,
    SANITIZERS,
    SIMT,
    Mutant,
    Results,
    bits,
    broken_copy,
    compiled,
    every_mutant,
    execute_sanitized,
    poisoned,
    source_of,
)
from simt.pair_inputs import INPUTS, PairInput
from torch import Tensor

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the SIMT machine is built with g++")

KERNEL, POINTS, COUPLING, ORDER = "wasserstein_1d.cu", "sorted_points.cuh", "monotone_coupling.cuh", "grade_order.cu"
MUTANTS = [
    Mutant("no barrier before heights are searched", KERNEL, "work.sync();", "", *RACE, "p=2.0"),
    Mutant("no barrier before sums are scattered", COUPLING, "work.sync();", "", *RACE, "p=2.0"),
    Mutant("a point too many", KERNEL, "points <= memory", "points - 1 <= memory", *OVERFLOW, "one more than fits"),
    Mutant("a slope one place on", POINTS, "slope_[place]", "slope_[place + 1]", *OVERFLOW, "p=2.0"),
    Mutant("an order one pair on", POINTS, "side.begin(pair, side.order", "side.begin(pair + 1, side.order",
           *OVERFLOW, "p=2.0"),
    Mutant("masked left out", KERNEL, "side.set_slope(place, real", "if (real) side.set_slope(place, real", *POISON,
           "masked hold anything"),
    Mutant("no loss", KERNEL, "if (team.thread == 0) static_cast<Computing<S>*>(args.loss)[pair]",
           "[[maybe_unused]] Computing<S> none", *POISON, "p=2.0"),
    Mutant("masked sorted as they are", ORDER, "if (mask && ", "if (false && ", *NUMBERS, "masked hold anything"),
    Mutant("masked weigh", POINTS, "if (!side.takes_part(place)) continue;", "", *NUMBERS, "masked hold anything"),
    Mutant("one side of a tie", COUPLING, "if (above < last && ", "if (false && ", *NUMBERS, "tied weights"),
    Mutant("the other side of a tie", COUPLING, "if (below > other.begin && ", "if (false && ", *NUMBERS,
           "tied weights"),
    Mutant("the mean is left", KERNEL, "before(lines.rise, rank) - mean", "before(lines.rise, rank)", *NUMBERS,
           "p=2.0"),
    Mutant("a run's mean from 0", COUPLING, "result[2] += own.mass * before[1];", "", *NUMBERS, "p=2.0"),
    Mutant("runs start from 0", COUPLING, "add(lines_.slope, j, own.end_v, before[0]);", "", *NUMBERS, "blocks"),
    Mutant("heights that fall", POINTS, "std::fmax(run[0], reached[0])", "run[0]", *POISON, "blocks, twice the same"),
    Mutant("an improper weight", POINTS, "given >= 0 && ", "", *NUMBERS, "negative weight"),
    Mutant("an infinite value", POINTS, "std::fabs(value) < kInf<C>", "value == value", *NUMBERS, "infinite"),
    Mutant("the first pair's weights", POINTS, "side.begin(pair, side.weights_shared)", "0", *NUMBERS, "p=2.0"),
]  # fmt: skip
# No mutant but a variant that must be right: so few blocks that they stride over the pairs of a small batch.
FEW_BLOCKS = Mutant(
    "two blocks in flight",
    KERNEL,
    "kLeastBlocks = 32, kMostBlocks = 2 * 148",
    "kLeastBlocks = 2, kMostBlocks = 2",
    "thread",
    "nothing",
    "workspace",
)


def build(folder: Path, sanitizer: str, sources: Path = ROOT / "csrc") -> Path:
    folder.mkdir(exist_ok=True)
    kernels = [str(sources / "cuda" / name) for name in ("wasserstein_1d.cu", "grade_order.cu")]
    return compiled(
        folder / f"wasserstein_1d_{sanitizer}",
        sanitizer,
        [str(SIMT / "wasserstein_1d.cpp"), "-x", "c++", *kernels],
        sources,
    )


def start(program: Path, given: Sequence[PairInput]) -> tuple[subprocess.CompletedProcess[str], bytes]:
    calls, results = program.with_suffix(".calls"), program.with_suffix(".results")
    with calls.open("wb") as file:
        file.writelines(one.as_bytes() for one in given)
    return execute_sanitized([str(program), str(calls), str(results)]), results.read_bytes()


def run(program: Path, given: Sequence[PairInput]) -> list[list[Tensor]]:
    process, data = start(program, given)
    assert process.returncode == 0, process.stderr[-5000:]
    reader = Results(data)
    found = [one.read(reader) for one in given]
    assert reader.at == len(data)
    return found


def check(given: PairInput, found: list[Tensor]) -> None:
    assert not any(poisoned(tensor).any() for tensor in found)
    # Where the CPU rounds once to float so do the kernels; in double both are sums in an order of their own.
    rtol, atol = (1e-10, 1e-12) if given.clean.u_values.dtype == torch.float64 else (1e-6, 1e-9)
    for one, other in zip(found, given.expected(), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol, equal_nan=True)
    a = given.clean
    for k, mask in enumerate((a.u_mask, a.v_mask, a.u_mask, a.v_mask)):
        if mask is not None and a.wanted >> k & 1:
            assert not found[1 + k][~mask.expand(found[1 + k].shape)].any()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Path]]]:
    """By sanitizer, built two at a time."""
    folder = tmp_path_factory.mktemp("simt")
    with ThreadPoolExecutor(2) as pool:
        yield {sanitizer: pool.submit(build, folder / sanitizer, sanitizer) for sanitizer in SANITIZERS}


def broken(mutant: Mutant, home: Path) -> Path:
    return build(home, mutant.sanitizer, broken_copy(mutant, home))


@pytest.fixture(scope="module")
def results(programs: dict[str, Future[Path]]) -> dict[int, list[Tensor]]:
    return dict(zip(map(id, INPUTS), run(programs["plain"].result(), INPUTS), strict=True))


@pytest.mark.parametrize("given", INPUTS, ids=str)
def test_agrees_with_the_cpu(given: PairInput, results: dict[int, list[Tensor]]) -> None:
    """Every output is written, and exactly 0 where a point takes no part."""
    check(given, results[id(given)])


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_memory_is_touched_only_where_it_may_be_and_threads_do_not_race(
    sanitizer: str, programs: dict[str, Future[Path]], results: dict[int, list[Tensor]]
) -> None:
    """And the bits are the same in another run of another build."""
    for given, found in zip(INPUTS, run(programs[sanitizer].result(), INPUTS), strict=True):
        for one, other in zip(found, results[id(given)], strict=True):
            assert torch.equal(bits(one), bits(other)), given


@pytest.mark.full  # a minute
def test_blocks_stride_over_pairs_that_share_a_workspace(tmp_path: Path) -> None:
    """More pairs than blocks in flight: none is left out, and none is overtaken by the next."""
    given = find(FEW_BLOCKS)
    assert given.clean.pairs == 3
    check(given, run(broken(FEW_BLOCKS, tmp_path), [given])[0])


def test_mutants_are_of_the_code_as_it_is() -> None:
    for mutant in (*MUTANTS, FEW_BLOCKS):
        source_of(mutant)


@every_mutant(MUTANTS)
def test_a_broken_kernel_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    given = find(mutant)
    process, data = start(broken(mutant, tmp_path), [given])
    if mutant.seen not in ("poison", "numbers"):
        assert process.returncode != 0
        assert mutant.seen in process.stderr
        return
    found = given.read(Results(data))
    assert any(poisoned(tensor).any() for tensor in found) == (mutant.seen == "poison")
    with pytest.raises(AssertionError):
        check(given, found)


def find(mutant: Mutant) -> PairInput:
    return next(i for i in INPUTS if i.name == mutant.input and i.clean.u_values.dtype == torch.float32)
