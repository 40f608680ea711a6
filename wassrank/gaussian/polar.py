"""The nuclear norm of A [Q, Q] and its gradient, the polar factor."""

from __future__ import annotations

from torch import Tensor

from wassrank.reference.nuclear_norm import norm_and_polar_factor

from .split_svd import split_svd


def nuclear_norm_and_factor(A: Tensor, noise: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Σ √(σ² + eps), [], and W, [Q, Q], with singular values up to `noise` [] taken for zero."""
    return norm_and_polar_factor(split_svd(A, noise), noise, eps)
