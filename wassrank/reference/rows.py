"""What a row of scores is, before any loss looks at it: grades of every passage, which passages are real, P and T.

A query's row holds N passages. Labels come as [Q, N] (a grade for every passage) or as [Q, K] with N = Q·K: passages
of all queries side by side, query-major, so that query i's own are columns iK … iK + K − 1 and the rest belong to other
queries (in-batch negatives). Or lists are packed one after the other, [T], and `offsets` says where each begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A batch as every loss sees it."""

    scores: Tensor  # [Q, N] of the compute dtype
    grades: Tensor  # [Q, N] int64, or floats for labels that are
    real: Tensor  # [Q, N] bool: passages that take part
    own: Tensor  # [Q, N] bool: passages of the row's own query
    dtype: torch.dtype  # of the computation and of the loss
    stray: Tensor  # [Q] bool: rows with a grade that cannot be


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype a loss is computed and returned in: float64 for float64 scores, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def stray_grade(grade: float, num_levels: int | None) -> str:
    if num_levels is None:
        return f"labels hold {grade}: a passage with no place on the line; mark padding with mask, not with a label"
    return (
        f"labels hold grade {grade}, but grades must lie in 0 ... num_levels-1 = {num_levels - 1}: pass a larger "
        f"num_levels, and mark padding with mask, not with a label"
    )


def rows_of(
    scores: Tensor,  # [Q, N]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K
    mask: Tensor | None,
    in_batch: float | None,
    num_levels: int | None,  # integer grades lie in 0 … num_levels − 1; None: labels are floats, any finite one will do
) -> Rows:
    """Raises ValueError for a stray grade that takes part, on the CPU; elsewhere, where looking would stall the device,
    the row is said to be stray and its loss will be NaN."""
    dtype = compute_dtype(scores.dtype)
    scores = scores.to(dtype)
    grades, own, real = dense_grades(labels, scores.shape[1], in_batch)
    if mask is not None:
        real = real & dense_mask(mask, scores.shape)
    real = real & (scores != -torch.inf)
    stray = real & (~grades.isfinite() if num_levels is None else (grades < 0) | (grades >= num_levels))
    if stray.device.type == "cpu" and not torch.compiler.is_compiling() and stray.any():
        raise ValueError(stray_grade(grades[stray][0].item(), num_levels))
    grades = torch.where(real & ~stray, grades, 0)
    return Rows(scores, grades, real, own, dtype, stray.any(-1))


def dense_grades(
    labels: Tensor,  # [Q, N] or [Q, K]
    num_passages: int,  # N
    in_batch: float | None,  # the grade of other queries' passages; None excludes them
) -> tuple[Tensor, Tensor, Tensor]:
    """Grade of every passage in every row, [Q, N] int64 or float64; which are the row's own; which take part."""
    Q, K = labels.shape
    labels = labels.double() if labels.is_floating_point() else labels.long()
    if num_passages == K:
        own = torch.ones_like(labels, dtype=torch.bool)
        return labels, own, own
    owner = torch.arange(num_passages, device=labels.device) // max(K, 1)
    own = owner == torch.arange(Q, device=labels.device)[:, None]
    grades = torch.where(own, labels.reshape(-1), in_batch if in_batch is not None else 0)
    return grades, own, own if in_batch is None else torch.ones_like(own)


def dense_mask(mask: Tensor, shape: torch.Size) -> Tensor:
    """A mask given as [Q, N] or, with [Q, K] labels, as [Q, K] (one flag a passage, the same for every row)."""
    return mask if mask.shape == shape else mask.reshape(-1).expand(shape)


def padded(values: Tensor, offsets: Tensor, width: int) -> Tensor:
    """Packed lists [T] as rows [Q, width], zeros behind each list's end."""
    at = offsets[:-1, None] + torch.arange(width, device=values.device)
    behind = torch.cat([values, values.new_zeros(1)])  # what stands behind the last is 0
    return behind[torch.where(at < offsets[1:, None], at, len(values))]


def masked_softmax(
    logits: Tensor,  # [Q, N]
    real: Tensor,  # [Q, N] bool
    temperature: float | Tensor,  # a number, or one a row
) -> Tensor:
    """softmax(logits / temperature) over the real passages, 0 elsewhere; a row without any is all zeros.

    The maximum is taken off before dividing: at temperature 1e-3 a quotient of 1e7 has no bits left below one.
    """
    weights = shifted_logits(logits, real, temperature).exp()
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total == 0, 1.0, total)


def shifted_logits(logits: Tensor, real: Tensor, temperature: float | Tensor) -> Tensor:
    """(logits − the row's maximum) / temperature; −inf for passages that are not real."""
    logits = logits.masked_fill(~real, -torch.inf)
    if logits.shape[-1] == 0:
        return logits
    top = logits.detach().amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    return (logits - top) / (temperature[:, None] if isinstance(temperature, Tensor) else temperature)


def target_distribution(
    target: str | Tensor,  # "softmax" | "linear" | "exp2", or non-negative masses, [Q, N] or own passages' [Q, K]
    rows: Rows,
    label_temperature: float | Tensor,  # a number, or one a row
) -> Tensor:
    """T, [Q, N]: what the labels say the scores' distribution should be. Rows sum to one, or to zero where no real
    passage has any gain."""
    gains: Tensor
    if isinstance(target, Tensor):
        gains = target.to(rows.dtype)
        if gains.shape != rows.grades.shape:  # own passages only: other queries' get nothing
            Q, K = gains.shape
            gains = torch.block_diag(*gains) if Q else gains.reshape(rows.grades.shape)
    elif target == "softmax":
        if isinstance(label_temperature, Tensor):
            label_temperature = label_temperature.to(rows.dtype)
        return masked_softmax(rows.grades.to(rows.dtype), rows.real, label_temperature)
    else:
        gains = gain(target, rows.grades.to(rows.dtype))
    gains = torch.where(rows.real, gains, 0.0)
    total = gains.sum(-1, keepdim=True)
    return gains / torch.where(total == 0, 1.0, total)


def gain(target: str, grades: Tensor) -> Tensor:
    """What "linear" or "exp2" asks for; a grade below zero has no gain."""
    return (grades if target == "linear" else torch.exp2(grades) - 1).clamp(min=0)


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
