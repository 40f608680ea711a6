"""The CUDA kernels, run on the CPU by the SIMT machine of tests/simt, against the reference in float64.

Built plainly, with every output poisoned and fenced in; built with the address and undefined-behaviour sanitizers;
built with the thread sanitizer. And kernels broken on purpose, to see that these notice.
"""

from __future__ import annotations

import shutil

import pytest
import torch
from simt.cases import CASES, RACE_CASES, Case, arrays, expected, taking_part
from simt.driver import MUTANTS, Drivers, Mutant, Result, Results, as_bytes
from torch import Tensor

BY_NAME = {case.name: case for case in CASES}

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the SIMT machine is built with g++")


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Drivers:
    return Drivers(tmp_path_factory.mktemp("simt"))


@pytest.fixture(scope="module")
def results(drivers: Drivers) -> dict[str, Result]:
    return drivers["plain"].run(CASES)


def poisoned(tensor: Tensor) -> Tensor:
    """Elements that still have, or were computed from, the bits the driver fills outputs and shared memory with."""
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]
    return tensor.view(bits) == -1


def row_norms_agree(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    error = torch.linalg.vector_norm(torch.nan_to_num(found - wanted, nan=0.0), dim=-1)
    norm = torch.linalg.vector_norm(torch.nan_to_num(wanted, nan=0.0), dim=-1)
    return bool((error <= tolerance * norm + 1e-15).all())  # where all mass is on one level the gradient is no float


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_output_is_written(case: Case, results: dict[str, Result]) -> None:
    result = results[case.name]
    assert not poisoned(result.state).any()
    assert not poisoned(result.scale).any()
    assert not poisoned(result.loss).any()
    assert not poisoned(result.grad_scores).any()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_agrees_with_the_reference(case: Case, results: dict[str, Result]) -> None:
    wanted, _ = expected(case)
    tolerance = 1e-12 if case.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(results[case.name].loss.double(), wanted, rtol=tolerance, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_agrees_with_the_reference(case: Case, results: dict[str, Result]) -> None:
    _, wanted = expected(case)
    found = results[case.name].grad_scores.double()
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found[~taking_part(case)], wanted[~taking_part(case)])
    if case.dtype in (torch.float16, torch.bfloat16):  # rounded to nearest, of a gradient known to float precision
        half_ulp = 0.51 * torch.finfo(case.dtype).eps
        smallest = half_ulp * torch.finfo(case.dtype).smallest_normal
        torch.testing.assert_close(found, wanted, rtol=half_ulp, atol=smallest, equal_nan=True)
    else:
        assert row_norms_agree(found, wanted, 1e-11 if case.dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_holds_the_maximum_and_nothing_for_empty_rows(case: Case, results: dict[str, Result]) -> None:
    given, real = arrays(case), taking_part(case)
    state = results[case.name].state
    for row in range(case.Q):
        empty = not real[row].any() or (case.labels == "zero" and row not in case.stray_rows)
        if empty:
            assert not state[row].any()
        elif row not in case.nan_rows:
            assert state[row, -1] == given.scores[row, real[row]].max()


def test_scale_is_one_over_the_weights_of_rows_that_count(results: dict[str, Result]) -> None:
    case = BY_NAME["empty rows, mean"]
    weight = arrays(case).weight
    assert weight is not None
    counted = weight[[row for row in range(case.Q) if row not in case.empty_rows]]
    torch.testing.assert_close(results[case.name].scale, 1 / counted.sum())
    for name in ("no queries", "no queries, unreduced", "nothing but empty rows", "empty rows"):
        assert results[name].scale == 1


def test_ties_have_no_gradient(results: dict[str, Result]) -> None:
    for name in ("scores are the labels", "scores are the labels, p = 2"):
        assert not results[name].grad_scores.any()


def test_memory_is_touched_only_where_it_may_be(drivers: Drivers, results: dict[str, Result]) -> None:
    """And the bits are the same in another run of another build."""
    for name, result in drivers["address"].run(CASES).items():
        for field in ("loss", "state", "scale", "grad_scores"):
            assert as_bytes(getattr(result, field)) == as_bytes(getattr(results[name], field)), (name, field)


def test_threads_do_not_race(drivers: Drivers) -> None:
    drivers["thread"].run(RACE_CASES)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_kernel_is_noticed(mutant: Mutant, drivers: Drivers) -> None:
    case = BY_NAME[mutant.case]
    process, data = drivers[mutant.name].start([case])
    if mutant.sanitizer == "thread":
        assert process.returncode != 0
        assert "data race" in process.stderr
    elif mutant.sanitizer == "address":
        assert process.returncode != 0
        assert "heap-buffer-overflow" in process.stderr
    else:
        result = Results(data).of(case)
        assert any(poisoned(tensor).any() for tensor in (result.loss, result.state, result.grad_scores))
