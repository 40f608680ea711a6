"""The polar factor by matrix products, as it runs on GPUs, against one by SVD."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wassrank import gaussian_wasserstein
from wassrank.gaussian import polar
from wassrank.gaussian.polar_iteration import LOWEST, polar_by_products, steps

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def mapped(x: Any, dtype: torch.dtype) -> Any:
    for a, b, c in steps(dtype):
        x = a * x + b * x**3 + c * x**5
    return x


@DTYPES
def test_the_steps_bring_what_is_above_the_threshold_to_one_and_the_rest_to_zero(dtype: torch.dtype) -> None:
    low = LOWEST[dtype]
    above = mapped(np.geomspace(low, 1, 5000), dtype)
    assert np.abs(above - 1).max() <= {torch.float64: 1e-14, torch.float32: 1e-6}[dtype]
    below = mapped(np.geomspace(1e-6 * low, low / 10, 5000), dtype)
    assert np.abs(below).max() <= 3e-4
    between = mapped(np.geomspace(low / 10, low, 5000), dtype)
    assert between.min() >= -1e-6
    assert between.max() <= 1 + 1e-6


def matrix(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    U, V = torch.linalg.qr(torch.randn(2, len(sigma), len(sigma), generator=generator, dtype=torch.float64))[0]
    return (U * sigma) @ V.T, U, V


SPECTRA = {
    "regular": torch.linspace(1, 2, 40),
    "one value": torch.ones(40),
    "one vector": torch.cat([torch.ones(1), torch.zeros(39)]),
    "repeated": torch.cat([torch.full((20,), 1.0), torch.full((20,), 1e-3)]),
    "steep": torch.logspace(0, -4, 40),
    "deficient": torch.cat([torch.ones(30), torch.zeros(10)]),
    "zero": torch.zeros(40),
}


@DTYPES
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_norm_and_factor(name: str, size: float, dtype: torch.dtype) -> None:
    sigma = SPECTRA[name].double() * size
    A, U, V = matrix(sigma)
    norm, W = polar_by_products(A, torch.tensor(1e-14 * size, dtype=torch.float64), dtype)
    want = (U * (sigma > 0)) @ V.T
    rounding = {torch.float64: 2e-15, torch.float32: 1e-6}[dtype]
    # A holds singular values to its rounding, and so their vectors to that over σ.
    error = (U.T @ (W - want) @ V) * torch.maximum(sigma[:, None], sigma) / size
    assert error.abs().max() <= 10 * rounding
    residual = W - W @ W.T @ W
    assert residual.abs().max() <= {torch.float64: 1e-13, torch.float32: 1e-7}[dtype]
    # The norm's error is of second order: the square of the factor's, and rounding in float64.
    assert abs(norm - sigma.sum()) <= size * (1e-13 + 40 * rounding**2 * 1e4)


def test_float64_resolves_what_float32_leaves_out() -> None:
    sigma = torch.logspace(0, -12, 40, dtype=torch.float64)
    A, U, V = matrix(sigma)
    noise = torch.tensor(1e-15, dtype=torch.float64)
    norm, W = polar_by_products(A, noise, torch.float64)
    assert ((U.T @ (W - U @ V.T) @ V) * torch.maximum(sigma[:, None], sigma)).abs().max() <= 1e-13
    assert abs(norm - sigma.sum()) <= 1e-13
    norm, W = polar_by_products(A, noise, torch.float32)
    low = LOWEST[torch.float32] * sigma.norm()
    assert abs(norm - sigma.sum()) <= sigma[sigma < low].sum() + 1e-9
    assert (sigma >= low).sum() <= W.norm() ** 2 <= (sigma >= low / 10).sum()


@DTYPES
def test_noise_has_no_factor_and_a_matrix_that_is_no_number_none_but_that(dtype: torch.dtype) -> None:
    A, _, _ = matrix(torch.linspace(1e-3, 2e-2, 40, dtype=torch.float64))
    norm, W = polar_by_products(A, torch.tensor(1.0, dtype=torch.float64), dtype)
    assert W.abs().max() <= 1e-3
    assert abs(norm) <= 1e-4
    A[3, 4] = torch.nan
    norm, W = polar_by_products(A, torch.tensor(1e-14, dtype=torch.float64), dtype)
    assert norm.isnan()
    assert W.isnan().all()


@pytest.mark.parametrize("allowed", ["tf32", "ieee"])
def test_products_are_not_taken_in_tensorfloat(allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    addmm = torch.addmm

    def watched(*arguments: Any, **options: Any) -> Tensor:
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        return addmm(*arguments, **options)

    monkeypatch.setattr(torch, "addmm", watched)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = allowed
    try:
        polar_by_products(torch.eye(4, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64), torch.float32)
        assert set(seen[:-1]) == {"ieee"}
        assert torch.backends.cuda.matmul.fp32_precision == allowed
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def problem(Q: int, K: int, near: float | None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    grades = torch.randint(0, 4, (Q, K), generator=generator)
    scores = torch.randn(Q, Q * K, generator=generator, dtype=torch.float64)
    return (scores if near is None else torch.block_diag(*grades.double()) + near * scores), grades


@pytest.mark.parametrize(
    ("temperature", "near"), [(1.0, None), (0.3, None), (0.1, None), (0.02, None), (1.0, 0.1), (1.0, 0.01)]
)
@DTYPES
def test_loss_and_gradient_by_products(
    dtype: torch.dtype, temperature: float, near: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole loss on the CPU, the factor found as on a GPU."""
    scores, grades = problem(48, 4, near)
    scores = scores.to(dtype)

    def step(backend: str) -> tuple[Tensor, Tensor]:
        s = scores.clone().requires_grad_()
        loss = gaussian_wasserstein(s, grades, temperature=temperature, backend=backend)
        return loss.detach(), torch.autograd.grad(loss, s)[0]

    want, want_gradient = step("torch")
    monkeypatch.setattr(polar, "by_decomposition", lambda device: False)
    monkeypatch.setattr(polar, "PRODUCTS_IN_FLOAT64", 0)
    loss, gradient = step("native")
    assert abs(loss - want) <= {torch.float64: 1e-11, torch.float32: 1e-6}[dtype] * want
    assert (gradient - want_gradient).norm() <= {torch.float64: 3e-8, torch.float32: 2e-4}[dtype] * want_gradient.norm()


def test_eps_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    A, _, _ = matrix(torch.cat([torch.logspace(0, -6, 30), torch.zeros(10)]).double())
    noise = torch.tensor(1e-15, dtype=torch.float64)
    for eps in (1e-15, 1e-4):
        want, want_factor = polar.nuclear_norm_and_factor(A, noise, eps, A)
        with monkeypatch.context() as patched:
            patched.setattr(polar, "by_decomposition", lambda device: False)
            norm, W = polar.nuclear_norm_and_factor(A, noise, eps, A)
        torch.testing.assert_close(norm, want, rtol=1e-13, atol=0)
        torch.testing.assert_close(W, want_factor, rtol=0, atol=1e-8)
