"""A weighted sum of the row losses over one batch: what every public function of the family comes down to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .grade_wasserstein import grade_wasserstein
from .info_nce import info_nce
from .listwise_kl import listwise_kl
from .rows import dense_grades, padded, reduce_rows, rows_of


@dataclass(frozen=True)
class Terms:
    """Each loss's factor; a loss whose factor is 0 is not computed."""

    wasserstein: float = 0.0
    info_nce: float = 0.0
    kl: float = 0.0


def graded_loss(
    scores: Tensor,  # [Q, N]; packed lists [T]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K; packed [T]
    terms: Terms,
    *,
    p: float,
    temperature: float,
    label_temperature: float | Tensor,
    target: str | Tensor,
    mask: Tensor | None,
    weight: Tensor | None,  # [Q]
    in_batch: float | None,
    num_levels: int | None,  # None: labels are floats
    position: Tensor | None,
    positives: Tensor | None,
    negative_grade: float | None,
    offsets: Tensor | None,  # [Q + 1]: packed lists
    reduction: str,
) -> Tensor:
    """Plain torch, any device, any floating dtype, twice differentiable, with respect to scores, target and weight.
    Arguments already checked.

    A row counts if it counts for one of the losses. Packed lists are padded first, which asks the device for the length
    of the longest."""
    if offsets is not None:
        lengths = offsets.diff()
        width = int(lengths.max()) if len(lengths) else 0
        given = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
        scores, labels, mask = (padded(values, offsets, width) for values in (scores, labels, given))
        target = padded(target, offsets, width) if isinstance(target, Tensor) else target
        position = padded(position, offsets, width) if position is not None and num_levels is None else position
    rows = rows_of(scores, labels, mask, in_batch, num_levels)
    if position is not None and num_levels is None:
        position, _, _ = dense_grades(position, rows.scores.shape[1], None)

    common: dict[str, Any] = {"temperature": temperature}
    asked: dict[str, Any] = {"label_temperature": label_temperature, "target": target}
    found: list[tuple[float, Tensor, Tensor]] = []  # factor, losses, rows with nothing to compare
    if terms.wasserstein:
        distances = grade_wasserstein(rows, p=p, position=position, num_levels=num_levels, **common, **asked)
        found.append((terms.wasserstein, *distances))
    if terms.info_nce:
        entropies = info_nce(rows, positives=positives, negative_grade=negative_grade, **common)
        found.append((terms.info_nce, *entropies))
    if terms.kl:
        found.append((terms.kl, *listwise_kl(rows, **common, **asked)))
    total = torch.zeros(len(rows.scores), dtype=torch.float64, device=scores.device)
    empty = torch.ones(len(rows.scores), dtype=torch.bool, device=scores.device)
    for factor, losses, nothing in found:
        total = total + factor * torch.where(nothing, 0.0, losses)
        empty = empty & nothing
    return reduce_rows(total, empty, weight, reduction).to(rows.dtype)
