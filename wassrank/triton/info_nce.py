"""InfoNCE's epilogues: sums by level → cost, what of the gradient goes with e among those that compete, and what with
the positives. Other queries' passages compete whatever their level, hence sums of their own.

    −mean over positives of log(e_+ / Z_A),   Z_A = Σ e over positives and negatives

(wassrank/reference/info_nce.py). What an epilogue gives: level_losses.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rows import exp_below, load_levels, load_scores


@triton.jit
def at_least(
    Z: tl.tensor,  # [R] float64
    C: tl.constexpr,
) -> tl.tensor:
    """Z_A, kept large enough for 1/Z_A to be a coefficient: it leaves out own passages of which one may be the row's
    maximum, far above all that compete."""
    return tl.maximum(Z, 2.0**-900 if tl.float64 == C else 2.0**-100)


@triton.jit
def best_grade(
    masses: tl.tensor,  # [R, LEVELS] float64, Σ e of own passages
    counts: tl.tensor,  # [R, LEVELS] float64
    logits: tl.tensor,  # [R, LEVELS] float64, Σ x
    others: tl.tensor,  # [R] float64, Σ e of other queries'
    negative_grade: tl.tensor,
    inverse_temperature: tl.tensor,  # float64
    LEVELS: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Where the own passages of the best grade are positives. How many, [R]; cost, [R]; 1/Z_A, [R]; which levels
    compete, [R, LEVELS]; b, [R, LEVELS]."""
    level = tl.arange(0, LEVELS)[None, :]
    best = level == tl.max(tl.where(counts > 0, level, -1), axis=1)[:, None]
    competes = (level <= negative_grade) | best
    Z = at_least(tl.sum(tl.where(competes, masses, 0.0), axis=1) + others, C)
    positives = tl.sum(tl.where(best, counts, 0.0), axis=1)
    share = 1 / tl.where(positives == 0, 1.0, positives)
    cost = tl.log(Z) - tl.sum(tl.where(best, logits, 0.0), axis=1) * share * inverse_temperature
    return positives, cost, 1 / Z, competes, tl.where(best, -share[:, None], 0.0)


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
    masses: tl.tensor,  # [R, LEVELS] float64, Σ e of own passages
    others: tl.tensor,  # [R] float64, Σ e of other queries'
    score: tl.tensor,  # [R], as read_positive gives it
    positive_level: tl.tensor,  # [R]
    top: tl.tensor,  # [R], the row's maximum
    negative_grade: tl.tensor,
    exponent_scale: tl.tensor,  # log2(e) / temperature, of C
    inverse_temperature: tl.tensor,  # float64
    LEVELS: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Where an index names the positive, which has a c and a b of its own: 1/Z_A and −1. How many positives take part,
    [R]; cost, [R]; 1/Z_A, [R]; which levels compete, [1, LEVELS]."""
    competes = tl.arange(0, LEVELS)[None, :] <= negative_grade
    takes_part = score != float("-inf")
    above = tl.where(positive_level > negative_grade, exp_below(score, top, exponent_scale).to(tl.float64), 0.0)
    Z = at_least(tl.sum(tl.where(competes, masses, 0.0), axis=1) + others + above, C)
    x = tl.where(takes_part, score - top, 0.0).to(tl.float64)
    return takes_part.to(tl.float64), tl.log(Z) - x * inverse_temperature, 1 / Z, competes
