"""The sum of a matrix's singular values, differentiable where torch's SVD is not: at repeated, tiny and zero ones.

The gradient of Σ_k σ_k with respect to A = U S Vᵀ is W = U Vᵀ over the singular values that are not zero. It depends on
the singular subspaces through W alone, so that repeated singular values do no harm; the null space, where any matrix of
norm ≤ 1 would give a subgradient, is given 0, the smallest of them. More generally the sum of √(σ² + eps) has the
gradient W = U g(S) Vᵀ with g(σ) = σ/√(σ² + eps), equal to (A Aᵀ + eps I)^{-1/2} A.

W's own derivative in a direction D is U (X ∘ sym M + Y ∘ skew M) Vᵀ with M = Uᵀ D V, sym and skew its symmetric and
skew parts, X_ij = (g_i − g_j)/(σ_i − σ_j) (g's derivative where the two are the same) and Y_ij = (g_i + g_j)/(σ_i +
σ_j). As the second derivative of a function it is symmetric: the same formula carries gradients back.

Why an SVD: the σ² are eigenvalues of Aᵀ A, but squaring costs half the digits, and A's singular values lie many orders
of magnitude apart once softmaxes sharpen (scores of unit variance against random grades, Q = 64, K = 7: from the
largest to the smallest that is not zero 2e2 at temperature 1, 2e3 at 0.3, 1e9 at 0.1). Tried in float64 at Q = 64 and
256, temperatures 1, 0.1 and 0.02, P random to within 1e-3 of T: by eigenvectors of Aᵀ A alone the loss's gradient is
off by up to 1e-8, which float32 would bear, and the loss, near P = T a small difference, by up to 4e-5, which it would
not; float64 would bear neither.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def nuclear_norm(
    A: Tensor,  # [n, n] float64
    noise: Tensor,  # []: singular values up to this are zero
    eps: float = 0.0,
) -> Tensor:
    """Σ_k √(σ_k² + eps), a scalar; twice differentiable in A. NaN, with a gradient of NaN, for a matrix that holds
    one."""
    return cast(Tensor, _NuclearNorm.apply(A, noise, eps))  # type: ignore[no-untyped-call]


def norm_and_polar_factor(
    svd: tuple[Tensor, Tensor, Tensor],  # U, σ, Vᵀ of A; singular values of 0 may be missing
    noise: Tensor,  # []
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The norm and its gradient W, [n, n]."""
    U, sigma, Vh = svd
    missing = len(U) - len(sigma)
    return (sigma.square() + eps).sqrt().sum() + missing * eps**0.5, (U * _g(sigma, noise, eps)) @ Vh


def finite_svd(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LAPACK refuses a matrix that holds NaN; here it has singular values of NaN. Without asking the device."""
    finite = A.isfinite().all()
    U, sigma, Vh = torch.linalg.svd(torch.where(finite, A, 0.0), full_matrices=False)
    return U, torch.where(finite, sigma, torch.nan), Vh


def _g(sigma: Tensor, noise: Tensor, eps: float) -> Tensor:
    """The norm's derivative with respect to each singular value."""
    zero = sigma <= noise
    return torch.where(zero, 0.0, sigma / torch.where(zero, 1.0, sigma.square() + eps).sqrt())


class _NuclearNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, noise: Tensor, eps: float) -> Tensor:
        value, W = norm_and_polar_factor(finite_svd(A), noise, eps)
        ctx.save_for_backward(A, noise, W)
        ctx.eps = eps
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        A, noise, W = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            W = _PolarFactor.apply(A, noise, ctx.eps)  # type: ignore[no-untyped-call]
        return grad * W, None, None


class _PolarFactor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, noise: Tensor, eps: float) -> Tensor:
        U, sigma, Vh = finite_svd(A)
        ctx.save_for_backward(U, sigma, Vh, noise)
        ctx.eps = eps
        return (U * _g(sigma, noise, eps)) @ Vh

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        U, sigma, Vh, noise = ctx.saved_tensors
        eps: float = ctx.eps
        zero = sigma <= noise
        s = torch.where(zero, 0.0, sigma)
        r = (s.square() + eps).sqrt()
        total, cross = s[:, None] + s, s[:, None] * r + s * r[:, None]
        # X and Y without differences, which have no digits left where singular values repeat; and what they tend to
        # where one of the two is zero, or both are.
        X = eps * total / (r[:, None] * r * cross)
        Y = cross / (r[:, None] * r * total)
        one, both = zero[:, None] | zero, zero[:, None] & zero
        limit = 1 / torch.maximum(r[:, None], r)
        X, Y = (torch.where(one, limit, Z).masked_fill(both, eps**-0.5 if eps else 0.0) for Z in (X, Y))
        M = U.T @ grad @ Vh.T
        return U @ (X * (M + M.T) / 2 + Y * (M - M.T) / 2) @ Vh, None, None
