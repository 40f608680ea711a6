"""Grade-axis Wasserstein distance, readably: W_p^p between Σ_n P_n δ(y_n) and Σ_n T_n δ(y_n), row by row.

P = softmax(scores / temperature), T from the labels, y the grades 0, 1, 2, … themselves as coordinates. Passages of
equal grade are interchangeable, so a row enters only through its level masses m_l = Σ_{n: y_n = l} P_n and t_l.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rows import dense_grades, dense_mask, masked_softmax, reduce_rows, target_distribution
from .transport import transport_cost

TIE_ULPS = 8
"""Running masses closer than this many machine epsilons of the compute dtype, relatively, count as equal: about what
summing a row of exponentials leaves uncertain."""


def stray_grade(grade: int, num_levels: int) -> str:
    return (
        f"labels hold grade {grade}, but grades must lie in 0 ... num_levels-1 = {num_levels - 1}: pass a larger "
        f"num_levels, and mark padding with mask, not with a label"
    )


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype a loss is computed and returned in: float64 for float64 scores, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def grade_wasserstein(
    scores: Tensor,  # [Q, N]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K
    *,
    p: float,
    temperature: float,
    label_temperature: float,
    target: str | Tensor,
    mask: Tensor | None,
    weight: Tensor | None,  # [Q]
    in_batch: int | None,
    num_levels: int,
    reduction: str,
) -> Tensor:
    """Plain torch, any device, any floating dtype, twice differentiable. Arguments as `wassrank.grade_wasserstein`,
    already checked. Largest temporaries: a handful of [Q, N] tensors."""
    dtype = compute_dtype(scores.dtype)
    scores = scores.to(dtype)
    grades, real = dense_grades(labels, scores.shape[1], in_batch)
    if mask is not None:
        real = real & dense_mask(mask, scores.shape)
    real = real & (scores != -torch.inf)
    stray = real & ((grades < 0) | (grades >= num_levels))
    if stray.device.type == "cpu" and not torch.compiler.is_compiling() and stray.any():
        raise ValueError(stray_grade(int(grades[stray][0]), num_levels))
    grades = grades.clamp(0, num_levels - 1)

    T = target_distribution(target, grades, real, label_temperature, dtype)
    empty = (~real.any(-1) | (T.detach().sum(-1) == 0)) & ~stray.any(-1)
    P = masked_softmax(scores, real & ~empty[:, None], temperature)

    levels = torch.zeros(scores.shape[0], num_levels, dtype=torch.float64, device=scores.device)
    m = levels.scatter_add(1, grades, P.double())
    t = levels.scatter_add(1, grades, T.double())
    position = torch.arange(num_levels, dtype=torch.float64, device=scores.device)
    cost = transport_cost(m, t, position, p, tie=TIE_ULPS * torch.finfo(dtype).eps)
    cost = torch.where(stray.any(-1), torch.nan, cost)

    return reduce_rows(cost, empty, weight, reduction).to(dtype)
