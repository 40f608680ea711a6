"""The nuclear norm of A [Q, Q] and its gradient, the polar factor: which algorithm for which size and device.

On the CPU a decomposition (split_svd.py): LAPACK is faster there than some eighty products of matrices are. On a GPU
products alone (polar_iteration.py): torch's decompositions wait for the device to tell whether they succeeded. They are
taken in float64 up to PRODUCTS_IN_FLOAT64 rows, where they are launches more than arithmetic, and for float64 scores;
else in float32, which needs half as many and runs at twice to 64 times the rate, as GPUs go. Digits and time of each:
docs/polar_factor.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wassrank.reference.nuclear_norm import norm_and_polar_factor

from .polar_iteration import polar_by_products
from .split_svd import split_svd

PRODUCTS_IN_FLOAT64 = 256


def nuclear_norm_and_factor(
    A: Tensor,  # [Q, Q] float64
    noise: Tensor,  # []
    eps: float,
    scores: Tensor,  # of which only the dtype matters
) -> tuple[Tensor, Tensor]:
    """Σ √(σ² + eps), [], and W, [Q, Q], its gradient, with singular values up to `noise` [] taken for zero."""
    if by_decomposition(A.device):
        return norm_and_polar_factor(split_svd(A, noise), noise, eps)
    if eps:  # [A, √eps I] has the singular values √(σ² + eps)
        wide = torch.cat([A, torch.eye(len(A), dtype=A.dtype, device=A.device) * eps**0.5], 1)
        norm, W = polar_by_products(wide, noise, torch.float64)
        return norm, W[:, : len(A)].contiguous()
    narrow = len(A) > PRODUCTS_IN_FLOAT64 and scores.dtype != torch.float64
    return polar_by_products(A, noise, torch.float32 if narrow else torch.float64)


def by_decomposition(device: torch.device) -> bool:
    return device.type == "cpu"
