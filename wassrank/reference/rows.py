"""What a row of scores is, before any loss looks at it: grades of every passage, which passages are real, P and T.

A query's row holds N passages. Labels come as [Q, N] (a grade for every passage) or as [Q, K] with N = Q·K: passages
of all queries side by side, query-major, so that query i's own are columns iK … iK + K − 1 and the rest belong to other
queries (in-batch negatives).
"""

from __future__ import annotations

import torch
from torch import Tensor


def dense_grades(
    labels: Tensor,  # [Q, N] or [Q, K] integers
    num_passages: int,  # N
    in_batch: int | None,  # the grade of other queries' passages; None excludes them
) -> tuple[Tensor, Tensor]:
    """Grade of every passage in every row, [Q, N] int64, and which of them take part, [Q, N] bool."""
    Q, K = labels.shape
    if num_passages == K:
        return labels.long(), torch.ones_like(labels, dtype=torch.bool)
    owner = torch.arange(num_passages, device=labels.device) // max(K, 1)
    own = owner == torch.arange(Q, device=labels.device)[:, None]
    grades = torch.where(own, labels.reshape(-1).long(), in_batch if in_batch is not None else 0)
    return grades, own if in_batch is None else torch.ones_like(own)


def dense_mask(mask: Tensor, shape: torch.Size) -> Tensor:
    """A mask given as [Q, N] or, with [Q, K] labels, as [Q, K] (one flag a passage, the same for every row)."""
    return mask if mask.shape == shape else mask.reshape(-1).expand(shape)


def masked_softmax(
    logits: Tensor,  # [Q, N]
    real: Tensor,  # [Q, N] bool
    temperature: float,
) -> Tensor:
    """softmax(logits / temperature) over the real passages, 0 elsewhere; a row without any is all zeros.

    The maximum is taken off before dividing: at temperature 1e-3 a quotient of 1e7 has no bits left below one.
    """
    if logits.shape[-1] == 0:
        return logits
    logits = logits.masked_fill(~real, -torch.inf)
    top = logits.detach().amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    weights = ((logits - top) / temperature).exp()
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total == 0, 1.0, total)


def target_distribution(
    target: str | Tensor,  # "softmax" | "linear" | "exp2", or non-negative masses, [Q, N] or own passages' [Q, K]
    grades: Tensor,  # [Q, N] int64
    real: Tensor,  # [Q, N] bool
    label_temperature: float,
    dtype: torch.dtype,
) -> Tensor:
    """T, [Q, N]: what the labels say the scores' distribution should be. Rows sum to one, or to zero where no real
    passage has any gain."""
    gains: Tensor
    if isinstance(target, Tensor):
        gains = target.to(dtype)
        if gains.shape != grades.shape:  # own passages only: other queries' get nothing
            Q, K = gains.shape
            gains = torch.block_diag(*gains) if Q else gains.reshape(grades.shape)
    elif target == "softmax":
        return masked_softmax(grades.to(dtype), real, label_temperature)
    elif target == "linear":
        gains = grades.to(dtype)
    else:
        gains = torch.exp2(grades.to(dtype)) - 1
    gains = torch.where(real, gains, 0.0)
    total = gains.sum(-1, keepdim=True)
    return gains / torch.where(total == 0, 1.0, total)


def reduce_rows(
    losses: Tensor,  # [Q]
    empty: Tensor,  # [Q] bool: rows that hold nothing to rank
    weight: Tensor | None,  # [Q]
    reduction: str,
) -> Tensor:
    """Weighted mean or sum over rows, or each row's weighted loss. Empty rows are 0 and not counted by the mean."""
    weight = torch.ones_like(losses) if weight is None else weight.to(losses.dtype)
    weight = torch.where(empty, 0.0, weight)
    losses = torch.where(empty, 0.0, losses) * weight
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    total = weight.sum()
    return losses.sum() / torch.where(total == 0, 1.0, total)
