"""Listwise Kullback-Leibler divergence KL(T ‖ P), row by row (ListNet's cross-entropy, less the target's entropy):

    KL(T ‖ P) = Σ_n T_n log(T_n / P_n) = log Z − Σ_n T_n s_n + Σ_n T_n log T_n,    s = scores / temperature,

with P = softmax(s), Z = Σ exp(s) and 0 · log 0 = 0. Gradient: ∂KL/∂S_n = (P_n − T_n) / temperature.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rows import Rows, shifted_logits, target_distribution


def listwise_kl(
    rows: Rows,
    *,
    temperature: float,
    label_temperature: float | Tensor,  # a number, or [Q]
    target: str | Tensor,
) -> tuple[Tensor, Tensor]:
    """Each row's divergence, [Q] float64, in nats, and which rows have nothing to compare, [Q] bool."""
    T = target_distribution(target, rows, label_temperature).double()
    empty = (~rows.real.any(-1) | (T.detach().sum(-1) == 0)) & ~rows.stray
    log_weights = shifted_logits(rows.scores, rows.real & ~empty[:, None], temperature).double()
    log_Z = torch.where(empty, 0.0, log_weights.exp().sum(-1)).masked_fill(empty, 1.0).log()
    # Where a passage takes no part its logit is −inf and its T is 0.
    surprise = log_Z[:, None] - torch.where(rows.real & ~empty[:, None], log_weights, 0.0)
    divergence = (T * surprise + torch.xlogy(T, T)).sum(-1)
    return torch.where(rows.stray, torch.nan, divergence), empty
