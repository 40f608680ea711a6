"""InfoNCE's epilogues: sums by level → cost, and what of the gradient goes with the positives; 1/Z goes with e.

    −mean over positives of log(e_+ / Z),   Z = Σ e

(wassrank/reference/info_nce.py). What an epilogue gives: level_losses.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rows import load_levels, load_scores


@triton.jit
def best_grade(
    counts: tl.tensor,  # [R, LEVELS] float64, own passages
    logits: tl.tensor,  # [R, LEVELS] float64, Σ x of own passages
    Z: tl.tensor,  # [R] float64, Σ e of all
    inverse_temperature: tl.tensor,  # float64
    LEVELS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Where the own passages of the best grade are positives. How many, [R]; cost, [R]; b, [R, LEVELS]."""
    level = tl.arange(0, LEVELS)[None, :]
    best = level == tl.max(tl.where(counts > 0, level, -1), axis=1)[:, None]
    positives = tl.sum(tl.where(best, counts, 0.0), axis=1)
    share = 1 / tl.where(positives == 0, 1.0, positives)
    cost = tl.log(Z) - tl.sum(tl.where(best, logits, 0.0), axis=1) * share * inverse_temperature
    return positives, cost, tl.where(best, -share[:, None], 0.0)


@triton.jit
def read_positive(
    scores: tl.tensor,  # pointer
    labels: tl.tensor,  # pointer
    mask: tl.tensor,  # pointer, or None
    positives: tl.tensor,  # pointer to [Q] int64
    row: tl.tensor,  # [R] int64
    at_row: tl.tensor,  # [R] int64, the first own passage in scores,
    labels_at_row: tl.tensor,  # in labels,
    mask_at_row: tl.tensor,  # and in mask
    Q: tl.tensor,
    own: tl.tensor,  # own passages, the same for all rows or [R]
    num_levels: tl.tensor,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The score and the level of the passage that is the positive, [R]; −inf where there is none that takes part."""
    place = tl.load(positives + row, mask=row < Q, other=-1)
    inside = (place >= 0) & (place < own)
    score = load_scores(scores, mask, at_row + place, mask_at_row + place, inside, C)
    level, _ = load_levels(labels, labels_at_row + place, inside, num_levels)
    return score, level


@triton.jit
def one_positive(
    score: tl.tensor,  # [R], as read_positive gives it
    top: tl.tensor,  # [R], the row's maximum
    Z: tl.tensor,  # [R] float64, Σ e of all
    inverse_temperature: tl.tensor,  # float64
) -> tuple[tl.tensor, tl.tensor]:
    """Where an index names the positive, whose b, −1, is its own. How many positives take part, [R]; cost, [R]."""
    takes_part = score != float("-inf")
    x = tl.where(takes_part, score - top, 0.0).to(tl.float64)
    return takes_part.to(tl.float64), tl.log(Z) - x * inverse_temperature
