"""The polar factor by matrix products alone: what a GPU does best, and without asking the device anything.

An odd polynomial of a matrix X = U S Vᵀ is U p(S) Vᵀ. Applied one after the other, x ← a x + b x³ + c x⁵, three
products each, such polynomials bring all singular values from [ℓ, 1] to 1 and leave U and V alone. Each step's is the
one that stays nearest to 1 on the interval its predecessors leave (Chebyshev; Remez's exchange finds it): the first
lifts small values 5.6 times, later ones 4.3 times, the last few square the error. Newton–Schulz, 1.5 x − 0.5 x³ in two
products, lifts 1.5 times. (Minimax functions composed: Nakatsukasa and Freund 2016, with rational ones; Amsel et al.
2025, with polynomials.)

What lies below ℓ is rounding and has no polar factor: rank-deficient A is the rule, since centring makes (1, …, 1)
vanish. X starts as A / ‖A‖_F, or further down if that is what brings the noise below ℓ / 4, and after the minimax steps
two of x ← 2.5 x³ − 1.5 x⁵ leave 1 where it is, squaring its error, and send what ended below 0.816 to 0. Together: 1 to
rounding from ℓ upwards, 0 to 3e-4 from ℓ / 10 downwards and to 1e-8 from ℓ / 30.

In float64, ℓ = 1e-14: 27 steps. In float32, ℓ = 1e-6: 13 steps, then one of Newton–Schulz in float64, which squares
what is left of the residual ‖W − W Wᵀ W‖ on the range and makes the norm ⟨A, W⟩ exact to second order in W's errors.
Singular values below 1e-6 ‖A‖_F count as zero there; what that costs in digits: docs/polar_factor.md.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

LOWEST = {torch.float64: 1e-14, torch.float32: 1e-6}
"""ℓ, relative to ‖A‖_F."""
ENOUGH = {torch.float64: 1e-5, torch.float32: 1e-2}
"""The error that the minimax steps may leave: two cuts square it twice."""
FLOOR = 0.1
"""Where a step's interval begins at the lowest. From smaller values on, a step nearest to 1 would bring values of order
one down to as little, a place that rounding does not let them return from unharmed."""
MARGIN = 1.01
"""And how much further than the largest value it reaches: at its end a step multiplies rounding by ten."""
CUTS = ((0.0, 2.5, -1.5),) * 2

Coefficients = tuple[float, float, float]


def polar_by_products(
    A: Tensor,  # [n, m] float64, n ≤ m
    noise: Tensor,  # []: singular values up to this are zero
    dtype: torch.dtype,  # of the products
) -> tuple[Tensor, Tensor]:
    """The sum of singular values, [], and the polar factor, [n, m], both float64. NaN for a matrix that holds one."""
    scale = torch.maximum(torch.linalg.vector_norm(A), 4 / LOWEST[dtype] * noise)
    X = (A / torch.where(scale == 0, 1.0, scale)).to(dtype)
    with ieee_products():
        for a, b, c in steps(dtype):
            Y = X @ X.T
            X = torch.addmm(X, torch.addmm(Y, Y, Y, beta=b, alpha=c), X, beta=a)
    W = X.double()
    if dtype != torch.float64:
        W = torch.addmm(W, W @ W.T, W, beta=1.5, alpha=-0.5)
    return (A * W).sum(), W


@contextlib.contextmanager
def ieee_products() -> Iterator[None]:
    """TensorFloat-32, where it is allowed for float32 products, has three digits: too few here."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@functools.cache
def steps(dtype: torch.dtype) -> tuple[Coefficients, ...]:
    return minimax(LOWEST[dtype], ENOUGH[dtype]) + CUTS


def minimax(low: float, enough: float) -> tuple[Coefficients, ...]:
    """Polynomials that, one after the other, bring [low, 1] to within `enough` of 1."""
    found: list[Coefficients] = []
    high = 1.0
    while 1 - low > enough:
        margin = MARGIN if low < FLOOR else 1.0
        (a, b, c), error = nearest_to_one(max(low, FLOOR), high * margin)
        found.append((a, b, c))
        low, high = a * low + b * low**3 + c * low**5, 1 + error
    return tuple(found)


def nearest_to_one(low: float, high: float) -> tuple[Coefficients, float]:
    """The a, b, c for which a x + b x³ + c x⁵ stays nearest to 1 on [low, high], and how near: its error is the same,
    with signs in turn, at both ends and at the two extrema between them (Remez's exchange)."""
    inner = low + (high - low) * np.array([1, 2]) / 3
    for _ in range(100):
        x = np.array([low, *inner, high])
        a, b, c, error = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], 1), np.ones(4))
        root = np.sqrt(9 * b * b - 20 * a * c)  # where p' = a + 3b x² + 5c x⁴ vanishes
        extrema = np.sqrt(np.array([-3 * b - root, -3 * b + root]) / (10 * c))
        moved, inner = np.abs(extrema - inner).max(), extrema
        if moved < 1e-13:
            break
    return (float(a), float(b), float(c)), float(error)
