"""Grade-axis Wasserstein distance, readably: W_p^p between Σ_n P_n δ(x_n) and Σ_n T_n δ(x_n), row by row.

P = softmax(scores / temperature), T from the labels, x the passages' coordinates: their grades, or what `position` puts
in the grades' place. Passages of equal grade are interchangeable: with few grades (integers) a row enters only through
its level masses m_l = Σ_{n: y_n = l} P_n and t_l; with any floats each passage is a level of its own, and the row is
sorted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rows import Rows, masked_softmax, target_distribution
from .transport import transport_cost

TIE_ULPS = 8
"""Running masses closer than this many machine epsilons of the compute dtype, relatively, count as equal: about what
summing a row of exponentials leaves uncertain."""


def grade_wasserstein(
    rows: Rows,
    *,
    p: float,
    temperature: float,
    label_temperature: float | Tensor,  # a number, or [Q]
    target: str | Tensor,
    position: Tensor | None,  # [num_levels] for integer grades, rising; [Q, N] else; None: the grades themselves
    num_levels: int | None,  # None: sort
) -> tuple[Tensor, Tensor]:
    """Each row's distance, [Q] float64, and which rows have nothing to compare, [Q] bool. Largest temporaries: a
    handful of [Q, N] tensors."""
    T = target_distribution(target, rows, label_temperature)
    empty = (~rows.real.any(-1) | (T.detach().sum(-1) == 0)) & ~rows.stray
    P = masked_softmax(rows.scores, rows.real & ~empty[:, None], temperature)

    m, t = P.double(), T.double()
    x: Tensor
    if num_levels is not None:
        levels = torch.zeros(len(P), num_levels, dtype=torch.float64, device=P.device)
        m, t = levels.scatter_add(1, rows.grades, m), levels.scatter_add(1, rows.grades, t)
        x = torch.arange(num_levels, dtype=torch.float64, device=P.device) if position is None else position
    else:
        x = torch.where(rows.real, rows.grades.double() if position is None else position.double(), 0.0)
        x, order = x.sort(dim=-1, stable=True)
        m, t = m.gather(-1, order), t.gather(-1, order)
    cost = transport_cost(m, t, x, p, tie=TIE_ULPS * torch.finfo(rows.dtype).eps)
    return torch.where(rows.stray, torch.nan, cost), empty
