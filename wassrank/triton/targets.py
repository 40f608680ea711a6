"""Device functions: what the labels ask for, by level."""

from __future__ import annotations

import triton
import triton.language as tl

from wassrank.codes import Target

SOFTMAX = tl.constexpr(int(Target.softmax))
LINEAR = tl.constexpr(int(Target.linear))
EXP2 = tl.constexpr(int(Target.exp2))
GIVEN = tl.constexpr(int(Target.given))


@triton.jit
def target_gains(
    counts: tl.tensor,  # [R, LEVELS] float64, passages by level
    label_temperature: tl.tensor,  # float64, a scalar or [R, 1]
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
) -> tl.tensor:
    """[R, LEVELS] or [1, LEVELS] float64: what one passage of each level is asked for, up to one factor a row. Zeros
    for a given target, which asks passage by passage."""
    level = tl.arange(0, LEVELS)[None, :]
    if KIND == SOFTMAX:
        # Relative to the row's highest grade, so that no label temperature underflows all of it.
        highest = tl.max(tl.where(counts > 0, level, -1), axis=1)[:, None]
        gains = tl.exp(tl.minimum(level - highest, 0).to(tl.float64) / label_temperature)
    elif KIND == LINEAR:
        gains = level.to(tl.float64)
    elif KIND == EXP2:
        gains = ((tl.full((1, LEVELS), 1, tl.int64) << level.to(tl.int64)) - 1).to(tl.float64)
    else:
        gains = tl.zeros((1, LEVELS), tl.float64)
    return gains
