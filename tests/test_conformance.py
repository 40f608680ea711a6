"""Every backend gives what the float64 reference gives, on every case of the table and in every dtype.

Tolerances (DESIGN: numerics): float32 loss 1e-6 and gradient 1e-5 relative, float64 at rounding; half types are read
exactly and computed in float32, so the loss keeps float32's tolerance and the gradient that of its own rounding.
"""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case

import wassrank

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LOSS_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-6, torch.bfloat16: 1e-6}
GRADIENT_TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
# Where P and T nearly agree the loss is a small difference of masses that each carry float32's rounding.
FLOOR = {torch.float64: 1e-14, torch.float32: 2e-7, torch.float16: 2e-7, torch.bfloat16: 2e-7}
# Below float16's normal range (6e-5) gradients keep an absolute precision of 6e-8, not a relative one.
GRADIENT_FLOOR = {torch.float64: 1e-14, torch.float32: 1e-7, torch.float16: 3e-6, torch.bfloat16: 1e-7}

BACKENDS = [
    pytest.param(("native", "cpu"), id="native-cpu"),
    pytest.param(("torch", "cpu"), id="torch-cpu"),
    pytest.param(("native", "cuda"), id="native-cuda", marks=pytest.mark.gpu),
    pytest.param(("triton", "cuda"), id="triton-cuda", marks=pytest.mark.gpu),
    pytest.param(("torch", "cuda"), id="torch-cuda", marks=pytest.mark.gpu),
]


def loss_and_gradient(
    case: Case, dtype: torch.dtype, backend: str, device: str, like: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The case's scores are rounded to `like` first, so that dtypes are compared on the same problem."""
    scores, labels, options = case.make(like or dtype, device)
    scores = scores.to(dtype).requires_grad_()
    loss = getattr(wassrank, case.loss)(scores, labels, backend=backend, **options)
    upstream = torch.linspace(0.5, 1.5, max(loss.numel(), 1), dtype=loss.dtype, device=device)
    (gradient,) = torch.autograd.grad(loss, scores, upstream.reshape(loss.shape) if loss.numel() else None, None)
    return loss.detach().double().cpu(), gradient.double().cpu()


def assert_close(got: torch.Tensor, want: torch.Tensor, tolerance: float, floor: float) -> None:
    assert got.shape == want.shape
    assert torch.equal(got.isnan(), want.isnan())
    got, want = got.nan_to_num(0.0), want.nan_to_num(0.0)
    error = (got - want).norm()
    assert error <= tolerance * want.norm() + floor, f"off by {error:.3g}, norm {want.norm():.3g}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_backend_equals_float64_reference(case: Case, dtype: torch.dtype, backend: tuple[str, str]) -> None:
    want_loss, want_gradient = loss_and_gradient(case, torch.float64, "torch", "cpu", like=dtype)
    loss, gradient = loss_and_gradient(case, dtype, *backend)
    assert_close(loss, want_loss, LOSS_TOLERANCE[dtype], FLOOR[dtype] * loss.numel() ** 0.5)
    assert_close(gradient, want_gradient, GRADIENT_TOLERANCE[dtype], GRADIENT_FLOOR[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_finite_for_finite_input_and_zero_where_no_passage_is(case: Case, backend: tuple[str, str]) -> None:
    scores, _, options = case.make(torch.float32)
    loss, gradient = loss_and_gradient(case, torch.float32, *backend)
    finite = torch.stack([~(row.isnan() | (row == torch.inf)).any() for row in case.rows(scores)] or [torch.ones(0)])
    finite = finite.bool().reshape(-1)
    if isinstance(options.get("target"), torch.Tensor):
        finite &= torch.stack([row.isfinite().all() for row in case.rows(options["target"])])
    if options.get("reduction") == "none":
        assert loss[finite].isfinite().all()
    elif finite.all():
        assert loss.isfinite()
    takes_no_part = scores == -torch.inf
    if "mask" in options:
        mask = options["mask"]
        takes_no_part |= ~(mask if mask.shape == scores.shape else mask.reshape(-1).expand(scores.shape))
    for row, is_finite, none in zip(case.rows(gradient), finite, case.rows(takes_no_part), strict=True):
        assert row.isfinite().all() or not is_finite
        assert (row[none] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_same_bits_each_run_and_second_backward_equals_first(case: Case, backend: tuple[str, str]) -> None:
    name, device = backend
    scores, labels, options = case.make(torch.float32, device)
    scores.requires_grad_()
    kept = [(t, t.clone()) for t in (scores.detach(), labels)]
    losses: list[torch.Tensor] = []
    gradients: list[torch.Tensor] = []
    for _ in range(2):
        loss = getattr(wassrank, case.loss)(scores, labels, backend=name, **options)
        losses.append(loss.detach())
        for _ in range(2):
            gradients += torch.autograd.grad(loss, scores, torch.ones_like(loss), retain_graph=True)
    assert torch.equal(losses[0].nan_to_num(7), losses[1].nan_to_num(7))
    for gradient in gradients[1:]:
        assert torch.equal(gradients[0].nan_to_num(7), gradient.nan_to_num(7))
    for tensor, before in kept:
        assert torch.equal(tensor.nan_to_num(7), before.nan_to_num(7)), "an input was modified"
