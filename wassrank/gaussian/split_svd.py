"""A singular value decomposition in about half of LAPACK's time, as accurate where it matters here.

Aᵀ A = V Λ Vᵀ gives right singular vectors in less than half of an SVD's time, but knows σ_k only to σ_max² · 1e-16 /
σ_k. So only the upper part is taken from there, λ > SPLIT · λ_max, with left vectors A v / ‖A v‖. The lower part, A on
the remaining V, is a narrow matrix whose entries are all small; less what rounding left in it of the upper part's left
vectors it is decomposed on its own, and keeps all its digits. Most often it is a few columns, or the null space that
A's centring makes, which is recognised by its norm.

Two threads, scores of unit variance against random grades, 4 passages a query, temperatures 1 to 0.05: 0.4 to 0.47 ms
against 0.46 at 64 rows, 5.8 to 7.4 against 9.6 at 256, 37 to 51 against 80 at 512. Where the matrix is well conditioned
the polar factor is within 1e-12 of the SVD's; SPLIT = 1e-6 would save another 1 to 10 % and leave 1e-11.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPLIT = 1e-4
"""Of eigenvalues: singular values below 1e-2 of the largest are the lower part."""


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
