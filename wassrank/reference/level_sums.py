"""The row losses from sums by level: all that a row of few grades is to them.

With e_n = exp((S_n − s_max)/temperature), over passages that take part; l one of the L levels for the row's own
passages, or the L-th place for other queries':

    mass_l = Σ e_n,   number_l = Σ 1,   logit_l = Σ (S_n − s_max),   target_l = Σ T_n (a given target's)
    and over all passages target_logit = Σ T_n (S_n − s_max),   target_log = Σ T_n log T_n.

Each loss is a function of these, and autograd's derivatives with respect to them are all that a score's gradient takes:
∂loss/∂S_n = (∂loss/∂mass_l) e_n / temperature + ∂loss/∂logit_l + (∂loss/∂target_logit) T_n. (No loss depends on s_max.)
Formulas: grade_wasserstein.py, info_nce.py, listwise_kl.py, here summed over the passages of a level first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .grade_wasserstein import TIE_ULPS
from .graded_loss import Terms
from .rows import gain
from .transport import transport_cost


class LevelSums(NamedTuple):
    """float64."""

    top: Tensor  # [Q]: s_max; −inf for a row without passages
    mass: Tensor  # [Q, L + 1]
    number: Tensor  # [Q, L + 1]
    logit: Tensor  # [Q, L + 1]
    target: Tensor  # [Q, L + 1]
    target_logit: Tensor  # [Q]
    target_log: Tensor  # [Q]
    named: Tensor  # [Q]: the score of a passage named as positive, −inf for none

    @classmethod
    def none(cls, rows: int, levels: int, device: torch.device) -> LevelSums:
        """Of no passages yet."""

        def full(value: float, *shape: int) -> Tensor:
            return torch.full((rows, *shape), value, dtype=torch.float64, device=device)

        mass, number, logit, target = (full(0, levels + 1) for _ in range(4))
        return cls(full(-torch.inf), mass, number, logit, target, full(0), full(0), full(-torch.inf))


def losses(
    sums: LevelSums,
    terms: Terms,
    *,
    p: float,
    temperature: float | Tensor,
    label_temperature: float | Tensor,  # a number, or [Q]
    target: str | None,  # None: given, in the sums
    in_batch: int | None,
    position: Tensor | None,  # [L]; None: 0, 1, 2, …
    named: bool,  # whether the positive is the one that has a name; else the row's own passages of its best level
    dtype: torch.dtype,  # of the scores' computation
) -> tuple[Tensor, Tensor]:
    """Each row's weighted sum of losses, [Q] float64, and which rows have nothing to compare, [Q] bool."""
    L = sums.mass.shape[1] - 1
    mass, number, logit, given = (_with_others(x, in_batch) for x in (sums.mass, sums.number, sums.logit, sums.target))
    Z = mass.sum(1)
    nobody = number.sum(1) == 0
    log_Z = torch.where(nobody, 1.0, Z).log()
    level = torch.arange(L, dtype=torch.float64, device=mass.device)
    total = torch.zeros_like(Z)
    empty = torch.ones_like(nobody)
    if terms.wasserstein or terms.kl:
        if target is None:
            asked, each = given, None
        else:
            each = _gains(target, level, number, label_temperature)
            asked = number * each
        sum_asked = asked.sum(1)
        nothing = nobody | (sum_asked == 0)
        share = 1 / torch.where(nothing, 1.0, sum_asked)
        if terms.wasserstein:
            x = level if position is None else position
            m = mass / torch.where(nothing, 1.0, Z)[:, None]
            cost = transport_cost(m, asked * share[:, None], x, p, TIE_ULPS * torch.finfo(dtype).eps)
            total = total + terms.wasserstein * torch.where(nothing, 0.0, cost)
        if terms.kl:
            if each is None:
                target_log, target_logit = sums.target_log, sums.target_logit
            else:
                target_log = (number * torch.xlogy(each, each)).sum(1)
                target_logit = (each * logit).sum(1)
            entropy = (target_log - target_logit / temperature) * share + share.log()
            total = total + terms.kl * torch.where(nothing, 0.0, log_Z + entropy)
        empty = empty & nothing
    if terms.info_nce:
        if named:
            nothing = sums.named == -torch.inf
            mean = torch.where(nothing, 0.0, sums.named - sums.top)
        else:
            own = sums.number[:, :L]
            nothing = own.sum(1) == 0
            best = torch.where(own > 0, level, -1.0).argmax(1, keepdim=True)
            mean = (sums.logit[:, :L].gather(1, best) / own.gather(1, best).clamp(min=1))[:, 0]
        total = total + terms.info_nce * torch.where(nothing, 0.0, log_Z - mean / temperature)
        empty = empty & nothing
    return total, empty


def _with_others(by_place: Tensor, in_batch: int | None) -> Tensor:
    """[Q, L] of [Q, L + 1]: other queries' passages among those of grade in_batch."""
    own, others = by_place[:, :-1], by_place[:, -1:]
    if in_batch is None:
        return own
    at = torch.arange(own.shape[1], device=own.device) == in_batch
    return own + torch.where(at, others, 0.0)


def _gains(target: str, level: Tensor, number: Tensor, label_temperature: float | Tensor) -> Tensor:
    """What one passage of a level is asked for, [Q, L]; of softmax less the factor of the row's highest level."""
    if target != "softmax":
        return gain(target, level).expand_as(number)
    highest = torch.where(number > 0, level, 0.0).amax(1, keepdim=True)
    each = label_temperature[:, None] if isinstance(label_temperature, Tensor) else label_temperature
    return ((level - highest) / each).clamp(max=0).exp()
