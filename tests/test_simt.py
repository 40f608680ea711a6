"""The CUDA kernels, run on the CPU by the SIMT machine of tests/simt, against the reference in float64.

Built plainly, with every output poisoned and fenced in; built with the address and undefined-behaviour sanitizers;
built with the thread sanitizer. And kernels broken on purpose, to see that these notice.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from simt.driver import (
    FEW_BLOCKS,
    MUTANTS,
    PROGRAMS,
    TUNING,
    Call,
    Drivers,
    Mutant,
    Result,
    Results,
    bits,
    every_mutant,
    poisoned,
    source_of,
)
from simt.huge import HUGE, Huge
from simt.inputs import CONFORMANCE, OWN, TUNED, TUNINGS, Input, own, taking_part
from simt.sorted_inputs import SORTED, SORTED_CONFORMANCE, SORTED_OWN, floats
from test_conformance import FLOOR, GRADIENT_FLOOR, GRADIENT_TOLERANCE, LOSS_TOLERANCE, assert_close
from torch import Tensor

import wassrank
from wassrank import _C
from wassrank.arguments import Arguments
from wassrank.codes import Reduction, Target

INPUTS = [*OWN, *CONFORMANCE, *TUNED, *SORTED]
# Kernels' ways through a row do not depend on the type scores are stored in, but for what OWN and SORTED_OWN have of
# each: of the conformance table the sanitizers get float32, and in `make test-full` the other types.
SANITIZED = [*OWN, *TUNED, *SORTED_OWN, *(i for i in (*CONFORMANCE, *SORTED_CONFORMANCE) if i.dtype == torch.float32)]
OTHER_TYPES = [i for i in CONFORMANCE if i.dtype != torch.float32]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the SIMT machine is built with g++")


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    drivers = Drivers(tmp_path_factory.mktemp("simt"), [i.call for i in SANITIZED])
    yield drivers
    drivers.close()


@pytest.fixture(scope="module")
def results(drivers: Drivers) -> dict[int, Result]:
    return dict(zip(map(id, INPUTS), drivers.run([i.call for i in INPUTS]), strict=True))


def tensors(result: Result) -> tuple[Tensor, ...]:
    return result.loss, result.state, result.scale, result.grad_scores, *result.coefficients


def check(given: Input, result: Result) -> None:
    assert not any(poisoned(tensor).any() for tensor in tensors(result))
    loss, gradient = given.expected()
    found, dtype = result.grad_scores.double(), given.dtype
    assert_close(result.loss.double(), loss, LOSS_TOLERANCE[dtype], FLOOR[dtype] * loss.numel() ** 0.5)
    assert_close(found, gradient, GRADIENT_TOLERANCE[dtype], GRADIENT_FLOOR[dtype])
    assert not found[~taking_part(given.call)].any()


def check_end(given: Huge, result: Result) -> None:
    assert not poisoned(result.state).any()
    assert_close(result.loss.double(), given.loss, 1e-6, 1e-7)
    written = ~poisoned(result.grad_scores)
    assert written.sum() >= given.written
    tolerance = GRADIENT_TOLERANCE[given.call.arguments.scores.dtype]
    assert_close(result.grad_scores[written].double(), given.gradient[written], tolerance, 1e-15)


@pytest.mark.parametrize("given", INPUTS, ids=str)
def test_agrees_with_the_reference(given: Input, results: dict[int, Result]) -> None:
    """Every output is written, loss and gradient are within test_conformance's tolerances, row by row where there is no
    mean, and the gradient is exactly 0 where a passage takes no part."""
    check(given, results[id(given)])


@pytest.mark.parametrize("given", [i for i in [*OWN, *SORTED_OWN] if i.dtype.itemsize == 2], ids=str)
def test_half_gradients_are_rounded_to_nearest(given: Input, results: dict[int, Result]) -> None:
    half_ulp = 0.51 * torch.finfo(given.dtype).eps
    smallest = half_ulp * torch.finfo(given.dtype).smallest_normal
    found, (_, wanted) = results[id(given)].grad_scores.double(), given.expected()
    torch.testing.assert_close(found, wanted, rtol=half_ulp, atol=smallest, equal_nan=True)


def test_state_holds_the_maximum_and_nothing_for_empty_rows(results: dict[int, Result]) -> None:
    for given in OWN:
        a, state = given.call.arguments, results[id(given)].state
        scores, labels = given.case.rows(a.scores), given.case.rows(a.labels)
        for row, real in enumerate(given.case.rows(taking_part(given.call))):
            highest = scores[row][real].max() if real.any() else torch.tensor(0.0)
            if a.target_kind == Target.linear and not labels[row].any():
                assert not state[row].any(), (given, "no gain")
            elif not real.any():
                assert not state[row].any(), (given, "no passage")
            elif not highest.isnan() and (a.wasserstein or a.kl or a.positives is None):
                assert state[row, -1] == highest, given


def test_scale_is_one_over_the_weights_of_rows_that_count(results: dict[int, Result]) -> None:
    for given in INPUTS:
        a, scale = given.call.arguments, results[id(given)].scale
        if a.reduction != Reduction.mean or a.target_kind != Target.softmax or a.scores.isnan().any():
            assert scale == 1 or a.reduction == Reduction.mean
            continue
        ranked = taking_part(given.call)
        if not a.wasserstein and not a.kl:  # it takes a positive: one of the row's own
            if a.positives is not None:
                continue
            ranked = ranked & own(given.call)
        weight = torch.ones(a.queries) if a.weight is None else a.weight
        counts = torch.tensor([bool(row.any()) for row in given.case.rows(ranked)], dtype=torch.bool)
        total = weight[counts].double().sum()
        torch.testing.assert_close(scale.double(), 1 / total if total else torch.ones_like(total), rtol=2e-7, atol=0)


def test_ties_have_no_gradient(results: dict[int, Result]) -> None:
    tied = [i for i in CONFORMANCE if i.case.name.startswith("p_equals_t")]
    assert tied
    for given in tied:
        assert not results[id(given)].grad_scores.any(), given


def test_coefficients_are_nothing_where_a_passage_takes_no_part(results: dict[int, Result]) -> None:
    for given in SORTED:
        real = taking_part(given.call)
        if not real.numel():
            continue
        if not given.case.dense and not given.case.packed:
            real = real[own(given.call)].reshape(given.call.arguments.labels.shape)
        for coefficient in results[id(given)].coefficients:
            assert not coefficient[~real].any(), given


@pytest.mark.parametrize("program", PROGRAMS)
def test_memory_is_touched_only_where_it_may_be(program: str, drivers: Drivers, results: dict[int, Result]) -> None:
    """And the bits are the same in another run of another build."""
    found = drivers.sanitized[program, "address"].result()
    assert_same_bits([given for given in SANITIZED if given.call.program == program], found, results)


def assert_same_bits(inputs: list[Input], found: list[Result], results: dict[int, Result]) -> None:
    for given, result in zip(inputs, found, strict=True):
        for one, other in zip(tensors(result), tensors(results[id(given)]), strict=True):
            assert torch.equal(bits(one), bits(other)), given


@pytest.mark.parametrize("program", PROGRAMS)
def test_threads_do_not_race(program: str, drivers: Drivers) -> None:
    drivers.sanitized[program, "thread"].result()


@pytest.mark.full
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitizers_find_nothing_in_other_types(sanitizer: str, drivers: Drivers, results: dict[int, Result]) -> None:
    drivers.sanitized["level_losses", sanitizer].result()  # both write the same files
    found = drivers.run_those("level_losses", sanitizer, [given.call for given in OTHER_TYPES])
    assert_same_bits(OTHER_TYPES, found, results)


def test_a_list_of_a_million_among_short_ones(drivers: Drivers) -> None:
    """A warp's: teams suit the mean length."""
    lengths = [*[3] * 500, 1_000_000, *[2] * 600]
    generator, total = torch.Generator().manual_seed(0), sum(lengths)
    scores, labels = torch.randn(total, generator=generator), torch.randint(0, 4, (total,), generator=generator).byte()
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    arguments = Arguments(scores, labels, offsets=offsets, info_nce=0.5, kl=0.25, reduction=int(Reduction.none))
    (found,) = drivers.run([Call(arguments, torch.ones(len(lengths)))])

    wanted, losses = scores.double().requires_grad_(), []
    for begin, end in itertools.pairwise((0, 500, 501, len(lengths))):  # padded to the longest of each
        part = slice(offsets[begin], offsets[end])
        options: dict[str, Any] = {"offsets": offsets[begin : end + 1] - offsets[begin], "reduction": "none"}
        losses.append(
            wassrank.combined_loss(
                wanted[part], labels[part], info_nce=0.5, kl=0.25, target="softmax", **options, backend="torch"
            )
        )
    (gradient,) = torch.autograd.grad(torch.cat(losses).sum(), wanted)
    assert_close(found.loss.double(), torch.cat(losses).detach(), 1e-6, 1e-7)
    for one, other in zip(found.grad_scores.double().split(lengths), gradient.split(lengths), strict=True):
        assert_close(one, other, 1e-5, 1e-7)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_a_row_of_a_hundred_thousand_points(p: float, drivers: Drivers) -> None:
    given = floats("a long row", Q=1, K=100_000, mask="scores", p=p)
    check(given, drivers.run([given.call])[0])


@pytest.mark.full  # a minute
def test_blocks_stride_over_rows_that_share_a_workspace(drivers: Drivers) -> None:
    """More rows than blocks in flight: no row is left out, and none is overtaken by the next."""
    (given,) = (i for i in SORTED_OWN if i.case.name == FEW_BLOCKS.input)
    assert given.case.queries == 3
    check(given, drivers.broken(FEW_BLOCKS).run([given.call])[0])


@pytest.mark.parametrize("huge", HUGE, ids=lambda huge: huge.__name__)
def test_elements_beyond_32_bits_are_found(huge: Callable[[], Huge], drivers: Drivers) -> None:
    """State, loss and gradient at the end of arrays of 2^31 to 2^40 elements, by the blocks in the grids' corners."""
    given = huge()
    Q, N, _ = given.call.size or (0, 0, 0)
    assert N > 2**31 if given.call.arguments.offsets is not None else Q * N > 2**31
    check_end(given, drivers.run([given.call])[0])


def test_mutants_are_of_the_code_as_it_is() -> None:
    for mutant in (*MUTANTS, FEW_BLOCKS):
        source_of(mutant)


@every_mutant(MUTANTS, huge={huge.__name__ for huge in HUGE})
def test_a_broken_kernel_is_noticed(mutant: Mutant, drivers: Drivers) -> None:
    huge = {make.__name__: make for make in HUGE}.get(mutant.input)
    small = [i for i in INPUTS if i.case.name == mutant.input and i.dtype == torch.float32]
    given = huge() if huge else small[0]
    process, data = drivers.broken(mutant).start([given.call])
    if mutant.seen not in ("poison", "numbers"):
        assert process.returncode != 0
        assert mutant.seen in process.stderr
        return
    result = Results(data).of(given.call)
    assert any(poisoned(tensor).any() for tensor in tensors(result)) == (mutant.seen == "poison")
    with pytest.raises(AssertionError):
        check_end(given, result) if isinstance(given, Huge) else check(given, result)


def test_harness_starts_from_the_kernels_defaults() -> None:
    assert _C.tuning(0) == TUNING
    assert all(values.items() - TUNING.items() == values.items() for values in TUNINGS), "a tuning that is the default"
