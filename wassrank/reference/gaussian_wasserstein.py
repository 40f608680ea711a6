"""Gaussian 2-Wasserstein over the batch ("ws2"), readably: how far the batch's predictions, taken as a sample of one
Gaussian, lie from the batch's targets, taken as a sample of another.

The n rows of P = softmax(scores / temperature) are n samples of a vector of N probabilities, and so are the rows of T,
from the labels. Between the Gaussians of their means μ and covariances Σ = f · Σ_i (P_i − μ)(P_i − μ)ᵀ (f = 1/(n − 1),
and 1 for n = 1), the squared distance is (Esfandiarpoor et al. 2025; Bures metric)

    W₂² = ‖μ_P − μ_T‖² + Tr Σ_P + Tr Σ_T − 2 Tr (Σ_P Σ_T)^{1/2}.

No N × N matrix is needed. With E the rows less their mean, Σ = f EᵀE:

    Tr Σ_P = f ‖E_P‖², a squared Frobenius norm, and
    Tr (Σ_P Σ_T)^{1/2} = ‖A‖_*, the sum of the singular values of A = f E_P E_Tᵀ, which is n × n:
        the eigenvalues of Σ_P Σ_T = f² E_Pᵀ (E_P E_Tᵀ E_T) are, but for zeros, those of f² (E_P E_Tᵀ)(E_T E_Pᵀ) = A Aᵀ
        (XY and YX have the same non-zero eigenvalues), so that their square roots are A's singular values.

With A = U S Vᵀ the gradient of ‖A‖_* is the polar factor W = U Vᵀ on A's range (nuclear_norm.py), and so

    ∂W₂²/∂P = 2f (E_P − W E_T) + (2/n) · 1 (μ_P − μ_T),

W needing no centring of its own: A's rows and columns sum to zero, therefore W's do.

Where the labels grade only a query's own K passages and the rest count alike, T_i = β_i everywhere plus w_ik on its own
block, and neither T nor P is needed whole: with R_ij = Σ_k P_{i,jK+k} w_jk

    f ⟨P_i, E_T,j⟩ = f (β_j − β̄ + R_ij − Σ_l R_il / n),     A = that less its mean over i,
    (W E_T)_{i,jk} = (W β)_i + W_ij w_jk,

which is what the fused form computes, tile by tile of P (wassrank/tiles).

`covariance="diagonal"` looks at each passage's column alone: Σ_n (μ_P,n − μ_T,n)² + (σ_P,n − σ_T,n)².

What the distance cannot see: it compares statistics of the batch, so giving query i the predictions of query j and the
other way round changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .nuclear_norm import nuclear_norm
from .rows import compute_dtype, masked_softmax, rows_of, target_distribution

ROUNDING = 32 * torch.finfo(torch.float64).eps
"""What a row's probabilities, or sums of their products, are uncertain by, relatively. A fluctuation below it is none:
the direction it points in is noise."""


def gaussian_wasserstein(
    scores: Tensor,  # [Q, N]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K
    *,
    temperature: float,
    label_temperature: float | Tensor,  # a number, or [Q]
    target: str | Tensor,
    mask: Tensor | None,
    in_batch: float | None,
    num_levels: int | None,  # None: labels are floats
    covariance: str,  # "full" | "diagonal"
    eps: float,
) -> Tensor:
    """The squared distance, a scalar, in float64 inside. Twice differentiable in scores, target and label_temperature.

    Queries without a real passage, or whose target has no mass, are no samples: n counts the others. Arguments already
    checked. Largest temporaries: a dozen [Q, N] tensors of float64."""
    rows = rows_of(scores.double(), labels, mask, in_batch, num_levels)
    T = target_distribution(target, rows, label_temperature)
    sample = rows.stray | (rows.real.any(-1) & (T.detach().sum(-1) != 0))
    P = masked_softmax(rows.scores, rows.real & sample[:, None], temperature)
    T = torch.where(sample[:, None], T, 0.0)
    P = torch.where(rows.stray[:, None], torch.nan, P)

    n = sample.sum(dtype=torch.float64)
    f = 1 / (n - 1).clamp(min=1)
    mean_P, mean_T = (X.sum(0) / n.clamp(min=1) for X in (P, T))
    E_P, E_T = (torch.where(sample[:, None], X - mean, 0.0) for X, mean in ((P, mean_P), (T, mean_T)))
    distance = (mean_P - mean_T).square().sum()
    if covariance == "diagonal":
        spread = standard_deviation(E_P, P, f) - standard_deviation(E_T, T, f)
        distance = distance + spread.square().sum()
    else:
        noise = ROUNDING * f * (norm(P) * norm(E_T) + norm(E_P) * norm(T))
        overlap = nuclear_norm(f * (E_P @ E_T.T), noise, eps)
        if eps:  # rows that are no samples have no singular value to be added to
            overlap = overlap - (len(P) - n) * eps**0.5
        distance = distance + f * (E_P.square().sum() + E_T.square().sum()) - 2 * overlap
    return distance.to(compute_dtype(scores.dtype))


def standard_deviation(
    E: Tensor,  # [n, N]: columns less their mean
    X: Tensor,  # [n, N]: as they were
    f: Tensor,
) -> Tensor:
    """Of each column, [N]; 0, with no gradient, where the column is constant but for rounding."""
    variance = f * E.square().sum(0)
    varies = ~(variance <= f * ROUNDING**2 * X.detach().square().sum(0))  # NaN varies
    return torch.where(varies, torch.where(varies, variance, 1.0).sqrt(), 0.0)


def norm(X: Tensor) -> Tensor:
    """Frobenius norm, for a bound: without a gradient."""
    return X.detach().square().sum().sqrt()
