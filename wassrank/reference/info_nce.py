"""InfoNCE, row by row: the positives' cross-entropy against the passages they compete with.

    −mean_{n ∈ pos} log( exp(s_n) / Σ_{k ∈ pos ∪ neg} exp(s_k) ),    s = scores / temperature.

Positives are the row's own passages of its best grade, or the one an index names. Negatives are other queries'
passages, whatever their grade, and the row's own remaining ones up to `negative_grade`; own passages above it (nearly
as good as the positive) are left out. (van den Oord et al. 2018; several positives as in Khosla et al. 2020, "out".)
Gradient: (1[n ∈ pos ∪ neg] exp(s_n)/Z − 1[n ∈ pos]/|pos|) / temperature.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rows import Rows, shifted_logits


def info_nce(
    rows: Rows,
    *,
    temperature: float,
    positives: Tensor | None,  # [Q] int64, the positive's place among the row's own passages; negative: none
    negative_grade: float | None,  # None: all own passages that are no positives are negatives
) -> tuple[Tensor, Tensor]:
    """Each row's loss, [Q] float64, in nats, and which rows have no positive that takes part, [Q] bool."""
    own = rows.own & rows.real
    if positives is None:
        lowest = -torch.inf if rows.grades.is_floating_point() else -1
        grades = torch.where(own, rows.grades, lowest)
        best = grades.amax(-1, keepdim=True) if grades.shape[-1] else grades
        positive = own & (grades == best)
    else:
        place = rows.own.cumsum(-1) - 1  # among the row's own passages
        positive = own & (place == positives[:, None])
    negative = rows.real & ~positive
    if negative_grade is not None:
        negative &= ~rows.own | (rows.grades <= negative_grade)
    count = positive.sum(-1)
    empty = (count == 0) & ~rows.stray
    contest = (positive | negative) & ~empty[:, None]
    logits = shifted_logits(rows.scores, contest, temperature).double()
    log_Z = logits.exp().sum(-1).masked_fill(empty, 1.0).log()
    mean = torch.where(positive, logits, 0.0).sum(-1) / count.clamp(min=1)
    return torch.where(rows.stray, torch.nan, log_Z - torch.where(empty, 0.0, mean)), empty
