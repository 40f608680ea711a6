"""`wassrank.target_mass_on_graded`."""

from __future__ import annotations

import torch
from torch import Tensor

from wassrank.reference.rows import rows_of, target_distribution

from . import checks


@torch.no_grad()
def target_mass_on_graded(
    scores: Tensor,  # [Q, N]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K
    *,
    above: float = 0.0,
    label_temperature: float | Tensor = 1.0,
    target: str | Tensor = "softmax",
    mask: Tensor | None = None,
    in_batch: float | None = 0,
    num_levels: int = 8,
) -> Tensor:
    """How much of each query's target distribution T lies on passages graded above `above`.

    With in-batch negatives the softmax of the labels gives most of its mass to other queries' passages, the more the
    larger the batch: a loss that compares P with T then mostly asks for a flat P. This tells how much is left for what
    the labels call relevant, for choosing `label_temperature`, `target` and `in_batch`; not for every step.

    Args:
        scores: only their shape, and which are −inf, matter.
        above: a passage counts if its grade is higher: 0 leaves out what is irrelevant.
        The others: as the loss is given them.

    Returns:
        [Q] float64, between 0 and 1; 0 for a query without target mass.
    """
    checks.check_scores(scores, None)
    checks.check_labels(scores, labels, None)
    checks.check_asked(scores, labels, len(scores), label_temperature, target, mask, in_batch, num_levels)
    rows = rows_of(scores.double(), labels, mask, in_batch, None if labels.is_floating_point() else num_levels)
    T = target_distribution(checks.chosen_target(target, labels), rows, label_temperature)
    return torch.where(rows.real & (rows.grades > above), T, 0.0).sum(-1)
