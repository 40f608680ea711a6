"""Each of the native passes of the batch-Gaussian distance against the same in plain torch, and what C++ puts together
of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cpu_kernels import offered_here
from test_gaussian_wasserstein import FORMS, arguments_of_form
from torch import Tensor

from wassrank import _C
from wassrank.codes import Target
from wassrank.gaussian import distance, native_step
from wassrank.gaussian.distance import Kept
from wassrank.gaussian.native import Native
from wassrank.gaussian.passes import Arguments, Column, Row, Turned
from wassrank.gaussian.plain_passes import PlainPasses
from wassrank.gaussian.split_svd import SMALL

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LABEL_DTYPES = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.float32, torch.float64]
TESTS = Path(__file__).parent


def some_rows(a: Arguments, first: int, count: int) -> Arguments:
    """What one of several processes has of the batch."""
    Q = len(a.scores)
    some: dict[str, Any] = {
        name: t[first : first + count].contiguous()
        for name, t in a._asdict().items()
        if isinstance(t, Tensor) and (t.dim() == 2 or len(t) == Q)
    }
    return a._replace(**some)


def close(got: Tensor, want: Tensor, rounding: float = 1e-13) -> None:
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=rounding, atol=rounding, equal_nan=True)


def check_passes(a: Arguments, first: int = 0) -> None:
    passes = Native(a, first)
    N, K = a.scores.shape[1], a.labels.shape[1]
    row, own = passes.rows()
    want_row, want_own = PlainPasses(a, first).rows()
    close(row, want_row)
    close(own, want_own)

    close(passes.moments(row), PlainPasses(a, first).moments(row))
    generator = torch.Generator().manual_seed(30)
    columns = torch.rand(len(Column), N, generator=generator, dtype=torch.float64) / N
    excess = torch.randn(N, generator=generator, dtype=torch.float64)
    for some in (excess, excess[:0]) if a.blocks else (excess[:0],):
        for got, want in zip(
            passes.products(row, columns, some, None),
            PlainPasses(a, first).products(row, columns, some, None),
            strict=True,
        ):
            close(got, want)
    for begin, end in ((0, N), (5, 77), (N - 1, N)):
        for got, want in zip(
            passes.tiles(row, columns, begin, end),
            PlainPasses(a, first).tiles(row, columns, begin, end),
            strict=True,
        ):
            close(got, want)
    close(passes.along(row, columns), PlainPasses(a, first).along(row, columns))

    along, everywhere = torch.randn(2, len(row), generator=generator, dtype=torch.float64) / N
    W = torch.randn(len(row), N // K, generator=generator, dtype=torch.float64)
    tile = torch.randn(len(row), 72, generator=generator, dtype=torch.float64)
    cases: list[tuple[int, int, Turned | Tensor | None]] = [(0, N, None), (5, 77, tile)]
    if a.blocks:
        cases.append((0, N, Turned(W, everywhere, excess, None)))
    for begin, end, turned in cases:
        got, want = torch.zeros_like(a.scores), torch.zeros_like(a.scores)
        scale = torch.tensor(3.0, dtype=torch.float64)
        passes.gradient(row, columns, along, scale, got, begin, end, turned)
        PlainPasses(a, first).gradient(row, columns, along, scale, want, begin, end, turned)
        rounding = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
        close(got, want, rounding[a.scores.dtype])


def arguments(name: str, dtype: torch.dtype) -> Arguments:
    a = arguments_of_form(name, dtype)
    return a._replace(scores=a.scores.detach(), temperature=0.7)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", FORMS)
def test_every_pass_in_every_form(name: str, dtype: torch.dtype) -> None:
    check_passes(arguments(name, dtype))


@pytest.mark.parametrize("name", FORMS)
def test_rows_of_a_larger_batch(name: str) -> None:
    check_passes(some_rows(arguments(name, torch.float32), 3, 8), first=3)


@pytest.mark.parametrize("instruction_set", _C.build_info()["cpu_instruction_sets"])
def test_every_instruction_set(instruction_set: str) -> None:
    """In a process of its own: the choice is made once, at first use."""
    script = (
        "import torch, test_gaussian_passes as t\n"
        f"assert t._C.build_info()['cpu_instruction_set_in_use'] == '{instruction_set}'\n"
        "for name in t.FORMS:\n"
        "    for dtype in t.DTYPES:\n"
        "        t.test_every_pass_in_every_form(name, dtype)\n"
        "    t.test_rows_of_a_larger_batch(name)\n"
        "    t.test_one_call_for_a_small_batch_is_the_passes_and_the_algebra(name, 0.0, True)\n"
        "    t.test_one_call_for_a_small_batch_is_the_passes_and_the_algebra(name, 1e-3, False)\n"
        "for n in (1, 2, 7, 33, 64, 96):\n"
        "    t.test_eigenvectors_of_small_matrices(n)\n"
    )
    if instruction_set not in offered_here():
        pytest.skip(f"this processor has no {instruction_set}")
    environment = os.environ | {"WASSRANK_CPU_ISA": instruction_set, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("K", [1, 2, 3, 4, 8, 16, 17, 700])
def test_every_number_of_passages_a_query_and_rows_of_several_blocks(K: int) -> None:
    Q = max(3, 1100 // K)
    scores = torch.randn(3, Q * K, generator=torch.Generator().manual_seed(31), dtype=torch.float64)
    labels = torch.randint(0, 4, (3, K), generator=torch.Generator().manual_seed(32))
    check_passes(Arguments(scores, labels), first=Q - 3)


@pytest.mark.parametrize("dtype", LABEL_DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_labels_of_every_dtype(dtype: torch.dtype) -> None:
    a = arguments("own", torch.float32)
    check_passes(a._replace(labels=a.labels.to(dtype), num_levels=None if dtype.is_floating_point else 8))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_score_that_is_no_number(value: float) -> None:
    a = arguments("own", torch.float32)
    a.scores[4, 5] = value
    passes = Native(a, 0)
    row, own = passes.rows()
    assert row[4, Row.INVERSE].isnan()
    close(row[:, 1:], PlainPasses(a, 0).rows()[0][:, 1:])  # but for TOP, which nobody asks for then
    close(passes.moments(row), PlainPasses(a, 0).moments(row))


def test_the_first_label_that_cannot_be_is_named_if_its_passage_takes_part() -> None:
    a = arguments("own", torch.float32)
    a.labels[3, 2], a.labels[7, 0] = 2**32 + 1, -1
    with pytest.raises(ValueError, match=f"grade {2**32 + 1}, but grades"):
        Native(a, 0).rows()
    mask = torch.ones(a.scores.shape[1], dtype=torch.bool)
    mask[3 * 9 + 2] = False
    masked = a._replace(mask=mask)
    with pytest.raises(ValueError, match="grade -1, but grades"):
        Native(masked, 0).rows()
    floats = a._replace(labels=a.labels.double().masked_fill(a.labels == -1, torch.nan), num_levels=None)
    with pytest.raises(ValueError, match="labels hold nan: a passage"):
        Native(floats, 0).rows()


def whole(name: str, eps: float, samples: bool) -> Arguments:
    """A form that one call of C++ may compute; without `samples` two rows are none."""
    a = arguments(name, torch.float64)._replace(eps=eps)
    if not samples:
        a.labels[[5, 11]] = 0
        a = a._replace(target_kind=int(Target.linear), target=None)
    return a


@pytest.mark.parametrize("samples", [True, False])
@pytest.mark.parametrize("eps", [0.0, 1e-3])
@pytest.mark.parametrize("name", FORMS)
def test_one_call_for_a_small_batch_is_the_passes_and_the_algebra(name: str, eps: float, samples: bool) -> None:
    a = whole(name, eps, samples)
    want, want_kept = distance.forward(Native(a, 0), a)
    found = native_step.forward(a)
    if not a.blocks or want_kept.flag:
        assert found is None
        return
    assert found is not None
    loss, kept = found
    close(loss, want)
    for field in Kept._fields:
        close(
            getattr(kept, field), getattr(want_kept, field), 1e-10 if field in ("W", "along", "everywhere") else 1e-13
        )


def test_one_call_is_not_for_the_diagonal_nor_for_many_rows() -> None:
    a = arguments("own", torch.float64)
    assert native_step.forward(a._replace(diagonal=True)) is None
    scores, labels = torch.randn(SMALL + 1, SMALL + 1), torch.zeros(SMALL + 1, 1, dtype=torch.int64)
    assert native_step.forward(Arguments(scores, labels)) is None


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 33, 64, 96])
def test_eigenvectors_of_small_matrices(n: int) -> None:
    generator = torch.Generator().manual_seed(34)
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    spread = torch.logspace(0, -12, n, dtype=torch.float64)
    one = torch.ones_like(spread)
    for values in (spread, one, one.masked_fill(torch.arange(n) % 3 == 1, 0.0), 0 * one, 1e-200 * spread):
        for basis in (Q, torch.eye(n, dtype=torch.float64)):
            gram = (basis * values) @ basis.T
            gram = (gram + gram.T) / 2
            V = torch.full_like(gram, torch.nan)
            lower = _C.gram_eigenvectors(gram.data_ptr(), n, 3e-5, V.data_ptr())
            assert lower == (n if values[0] == 0 else (values <= 3e-5 * values[0]).sum())
            assert (V @ V.T - torch.eye(n)).abs().max() <= 1e-13
            found = V @ gram @ V.T
            assert (found - found.diag().diag()).abs().max() <= 1e-14 * values[0]
            close(found.diag().sort().values / (values[0] or 1), values.sort().values / (values[0] or 1), 1e-14)
