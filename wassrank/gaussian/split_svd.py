"""A singular value decomposition in about half of LAPACK's time, as accurate where it matters here.

Aᵀ A = V Λ Vᵀ gives right singular vectors in less than half of an SVD's time, but knows σ_k only to σ_max² · 1e-16 /
σ_k. So only the upper part is taken from there, λ > SPLIT · λ_max, with left vectors A v / ‖A v‖. The lower part, A on
the remaining V, is a narrow matrix whose entries are all small; less what rounding left in it of the upper part's left
vectors it is decomposed on its own, and keeps all its digits. Most often it is a few columns, or the null space that
A's centring makes, which is recognised by its norm.

How fast: docs/polar_factor.md. Where the matrix is well conditioned the polar factor is within 1e-12 of the SVD's;
SPLIT = 1e-6 would save another 1 to 10 % and leave 1e-11.
"""

from __future__ import annotations

import bisect
import math

import torch
from torch import Tensor

from wassrank import backends
from wassrank.reference.nuclear_norm import norm_and_polar_factor

SPLIT = 1e-4
"""Of eigenvalues: singular values below 1e-2 of the largest are the lower part."""

MOST_ROTATED = 64
"""Singular values of the lower part up to which C++ rotates it (csrc/cpu/polar_factor.h); LAPACK takes over beyond."""


SMALL = 96
"""Rows up to which C++ does all of it (csrc/cpu/symmetric_eigen.h)."""


def norm_and_factor(
    A: Tensor,  # [n, n] float64, on the CPU
    noise: Tensor,  # []: singular values up to this are zero
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Σ √(σ² + eps), [], and its gradient, [n, n]. NaN for a matrix that holds one."""
    n = len(A)
    if n == 0 or backends.native is None:
        return norm_and_polar_factor(split_svd(A, noise), noise, eps)
    if n <= SMALL:
        norm, W = torch.empty_like(noise), torch.empty_like(A)
        addresses = norm.data_ptr(), W.data_ptr()
        if backends.native.small_polar_factor(A.data_ptr(), noise.data_ptr(), n, SPLIT, n // 2, eps, *addresses):
            return norm, W
    if not math.isfinite(A.sum()):
        return A.new_full((), math.nan), torch.full_like(A, math.nan)
    eigenvalues, V = torch.linalg.eigh(A.T @ A)
    known = eigenvalues.tolist()
    lower = bisect.bisect_right(known, SPLIT * known[-1])
    if lower > min(MOST_ROTATED, n // 2):
        return norm_and_polar_factor(_split_svd(A, V, lower, noise), noise, eps)
    Vh = V.T.contiguous()
    U = Vh @ A.T
    norm = A.new_tensor(backends.native.polar_factor(U.data_ptr(), Vh.data_ptr(), n, lower, float(noise), eps))
    return norm, U.T @ Vh


def lapack(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    U, sigma, Vh = torch.linalg.svd(A, full_matrices=False)
    return U, sigma, Vh


def split_svd(
    A: Tensor,  # [n, n] float64, on the CPU
    noise: Tensor,  # []: a lower part no larger than this is zero
) -> tuple[Tensor, Tensor, Tensor]:
    """U, σ in no order, Vᵀ, without a lower part that is zero. NaN for a matrix that holds one."""
    if A.numel() == 0:
        return lapack(A)
    if not A.isfinite().all():
        return A, torch.full_like(A[0], torch.nan), A
    eigenvalues, V = torch.linalg.eigh(A.T @ A)
    lower = int((eigenvalues <= SPLIT * eigenvalues[-1]).sum())
    return _split_svd(A, V, lower, noise)


def _split_svd(A: Tensor, V: Tensor, lower: int, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if 2 * lower > len(A):  # nothing would be saved
        return lapack(A)
    U = A @ V
    sigma = torch.linalg.vector_norm(U[:, lower:], dim=0)
    U[:, lower:] /= sigma
    if not lower:
        return U, sigma, V.T
    upper, rest = U[:, lower:], U[:, :lower]
    rest -= upper @ (upper.T @ rest)
    if torch.linalg.vector_norm(rest) <= noise:
        return U[:, lower:], sigma, V[:, lower:].T
    U_rest, sigma_rest, Vh_rest = lapack(rest)
    rest.copy_(U_rest)
    V[:, :lower] = V[:, :lower] @ Vh_rest.T
    return U, torch.cat([sigma_rest, sigma]), V.T
