"""The batch-Gaussian loss on a GPU: each fused backend against plain torch, and step by step against the CPU's passes.
What a step must not do there (wait, differ from run to run) is tested in test_on_gpu.py. Waits for `make gpu`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_gaussian_wasserstein import DTYPES, FORMS, form, problem, step
from torch import Tensor

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("backend", ["native", "triton"])]
every_covariance = pytest.mark.parametrize("covariance", ["full", "diagonal"])

ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Of the gradient, in the scores' type. In float64 what polar factors got in two ways differ by."""


def on_gpu(value: Any) -> Any:
    return value.detach().cuda() if isinstance(value, Tensor) else value


def fused_and_plain(
    scores: Tensor, labels: Tensor, options: dict[str, Any], backend: str
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Loss and gradient: the backend's on the GPU, plain torch's on the CPU in float64 of the same scores."""
    want = step(scores.detach().double().requires_grad_(), labels, backend="torch", **options)
    moved = {name: on_gpu(value) for name, value in options.items()}
    loss, gradient = step(on_gpu(scores).requires_grad_(), on_gpu(labels), backend=backend, **moved)
    assert gradient.dtype == scores.dtype
    return (loss.cpu(), gradient.cpu()), want


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@every_covariance
@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_the_reference(name: str, covariance: str, dtype: torch.dtype, backend: str) -> None:
    scores, labels, options = form(name, dtype)
    options |= {"temperature": 0.7, "covariance": covariance}
    (loss, gradient), (want, want_gradient) = fused_and_plain(scores, labels, options, backend)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert abs(loss - want) <= (1e-10 if dtype == torch.float64 else 1e-6) * want
    assert (gradient - want_gradient).norm() <= ROUNDING[dtype] * want_gradient.norm() + 1e-7 * (dtype.itemsize == 2)


@every_covariance
@pytest.mark.parametrize(
    ("Q", "K"), [(1, 7), (2, 5), (64, 4), (33, 31), (256, 8), (8, 4000), (300, 1), (0, 3)], ids=str
)
def test_sizes(Q: int, K: int, covariance: str, backend: str) -> None:
    for dense in (False, True):
        scores, labels = problem(Q, Q * K, seed=3, in_batch=not dense) if Q else (torch.zeros(0, 0), torch.zeros(0, 3))
        options = {"temperature": 0.5, "covariance": covariance}
        (loss, gradient), (want, want_gradient) = fused_and_plain(scores, labels.long(), options, backend)
        assert abs(loss - want) <= 1e-10 * want
        assert (gradient - want_gradient).norm() <= 1e-9 * want_gradient.norm()


@every_covariance
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("temperature", [1e-4, 1e-2, 1.0, 1e2])
def test_finite_and_never_negative(temperature: float, dtype: torch.dtype, covariance: str, backend: str) -> None:
    for Q, N in ((2, 10), (12, 4), (64, 192)):
        scores, labels = problem(Q, N, seed=4)
        scores = scores.detach().to(dtype).cuda().requires_grad_()
        loss, gradient = step(scores, labels.cuda(), temperature=temperature, covariance=covariance, backend=backend)
        assert loss.isfinite()
        assert loss >= -1e-14
        assert gradient.isfinite().all()
        assert gradient.abs().max() <= 8 / temperature


@every_covariance
def test_a_stray_label_or_score_makes_the_loss_nan(covariance: str, backend: str) -> None:
    """Nothing raises: looking would stall the device."""
    for name, stray in (("own masked", 2**32), ("dense", -1), ("own floats", float("nan"))):
        scores, labels, options = form(name)
        if "mask" in options:
            options["mask"][3, 4] = True
        labels[3, 4] = stray
        options = {k: on_gpu(v) for k, v in options.items()} | {"covariance": covariance, "backend": backend}
        loss, gradient = step(on_gpu(scores).requires_grad_(), on_gpu(labels), **options)
        assert loss.isnan()
        assert gradient[3].isnan().any()
    for value in (float("nan"), float("inf")):
        scores, labels, _ = form("own")
        with torch.no_grad():
            scores[4, 40] = value
        loss, _ = step(on_gpu(scores).requires_grad_(), on_gpu(labels), covariance=covariance, backend=backend)
        assert loss.isnan()


def test_keeps_no_matrix_of_passages(backend: str) -> None:
    """With [Q, K] labels nothing grows as Q·N but the scores' gradient."""
    Q, K = 64, 4096
    scores = torch.randn(Q, Q * K, device="cuda", requires_grad=True)
    labels = torch.randint(0, 4, (Q, K), device="cuda")
    step(scores, labels, backend=backend)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _, gradient = step(scores, labels, backend=backend)
    columns = 8 * Q * K  # of float64, a vector of passages
    # w, moments, their means and what is left of them; the [Q, Q] algebra, some of it in workspaces.
    assert torch.cuda.max_memory_allocated() - before <= gradient.nbytes + 20 * columns + 2**25


def test_scores_that_are_impossible_take_the_long_way(backend: str) -> None:
    """The flag that kernels look at, at more rows and columns than a program reads at a time."""
    scores, labels = problem(40, 40 * 25, seed=6, in_batch=True)
    impossible = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.02
    scores = scores.detach().masked_fill(impossible, -torch.inf)
    for options in ({}, {"in_batch": None}, {"mask": torch.arange(25).expand(40, 25) % 6 != 2}):
        (loss, gradient), (want, want_gradient) = fused_and_plain(scores, labels, options, backend)
        assert abs(loss - want) <= 1e-10 * want
        assert (gradient - want_gradient).norm() <= 1e-9 * want_gradient.norm()
        assert (gradient[impossible] == 0).all()
