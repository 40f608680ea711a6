"""Device functions: transport between two mass vectors on the grades 0 … LEVELS−1, cost and the source's potential.

Formulas and their derivation: wassrank/reference/transport.py. In float64 whatever the scores' type: a row has LEVELS
masses, and the difference of running masses is where precision would go.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wassrank.codes import Target
from wassrank.reference import transport

SOFTMAX = tl.constexpr(int(Target.softmax))
LINEAR = tl.constexpr(int(Target.linear))
EXP2 = tl.constexpr(int(Target.exp2))
GIVEN = tl.constexpr(int(Target.given))

ROUNDING = tl.constexpr(transport.ROUNDING)

# Orders p with a formula of their own: any other costs a float64 logarithm and exponential a distance.
ORDER_1 = tl.constexpr(1)
ORDER_2 = tl.constexpr(2)
ORDER_ANY = tl.constexpr(0)


@triton.jit
def target_masses(
    counts: tl.tensor,  # [R, LEVELS] float64, passages by level
    given: tl.tensor,  # [R, LEVELS] float64, for KIND given
    label_temperature: tl.tensor,  # float64
    KIND: tl.constexpr,
    LEVELS: tl.constexpr,
) -> tl.tensor:
    """[R, LEVELS] float64: the target's mass by level, up to one factor a row."""
    level = tl.arange(0, LEVELS)[None, :]
    if KIND == SOFTMAX:
        # Relative to the row's highest grade, so that no label temperature underflows all of it.
        highest = tl.max(tl.where(counts > 0, level, -1), axis=1)[:, None]
        masses = counts * tl.exp(tl.minimum(level - highest, 0).to(tl.float64) / label_temperature)
    elif KIND == LINEAR:
        masses = counts * level.to(tl.float64)
    elif KIND == EXP2:
        masses = counts * ((tl.full((1, LEVELS), 1, tl.int64) << level.to(tl.int64)) - 1).to(tl.float64)
    else:
        masses = given
    return masses


@triton.jit
def distance_power(
    d: tl.tensor,  # integers >= 0
    p: tl.tensor,  # float64
    ORDER: tl.constexpr,
) -> tl.tensor:
    """d^p in float64."""
    d = d.to(tl.float64)
    if ORDER == ORDER_2:
        d = d * d
    elif ORDER == ORDER_ANY:
        d = tl.where(d > 0, tl.exp2(p * tl.log2(tl.maximum(d, 1.0))), 0.0)
    return d


@triton.jit
def level_transport(
    m: tl.tensor,  # [R, LEVELS] float64, the source, each row summing to one
    t: tl.tensor,  # [R, LEVELS] float64, the target, likewise
    num_levels: tl.tensor,  # levels from here up to LEVELS are empty
    p: tl.tensor,  # float64
    tie: tl.tensor,  # float64, running masses this close, relatively, count as equal
    ORDER: tl.constexpr,
    LEVELS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """W_p^p, [R], and the potential φ, [R, LEVELS], φ_0 = 0."""
    level = tl.arange(0, LEVELS)[None, :]
    gap = tl.cumsum(m - t, axis=1)  # F − G, summed from differences to keep the masses' relative precision
    if ORDER == ORDER_1:
        cost = tl.sum(tl.where(level + 1 < num_levels, tl.abs(gap), 0.0), axis=1)
        slack = tie_slack(tl.cumsum(m, axis=1), tie)
        step = tl.where(gap > slack, -1.0, tl.where(gap < -slack, 1.0, 0.0)).to(tl.float64)
    else:
        G = tl.cumsum(t, axis=1)
        F = G + gap
        # [R, j, k] from here on: the monotone coupling of source level j with target level k.
        above = tl.minimum(F[:, :, None], G[:, None, :])
        below = tl.maximum((F - m)[:, :, None], (G - t)[:, None, :])
        ground = distance_power(tl.abs(tl.arange(0, LEVELS)[:, None] - level), p, ORDER)[None, :, :]
        cost = tl.sum(tl.sum(tl.maximum(above - below, 0.0) * ground, axis=2), axis=1)

        # Quantiles of F in the target just below and just above a tie; φ takes the mean of their two increments.
        last = tl.max(tl.where(t > 0, level, 0), axis=1)[:, None]
        slack = tie_slack(F, tie)
        lower = tl.minimum(tl.sum((G[:, None, :] < (F - slack)[:, :, None]).to(tl.int32), axis=2), last)
        upper = tl.minimum(tl.sum((G[:, None, :] <= (F + slack)[:, :, None]).to(tl.int32), axis=2), last)
        step = 0.5 * (increment(level, lower, p, ORDER) + increment(level, upper, p, ORDER))
    return cost, tl.cumsum(step, axis=1) - step


@triton.jit
def tie_slack(
    F: tl.tensor,  # [R, LEVELS] float64, running masses of the source
    tie: tl.tensor,
) -> tl.tensor:
    """Within this of F a running mass of the target counts as equal."""
    return tie * tl.maximum(tl.minimum(F, 1 - F), 0.0) + ROUNDING


@triton.jit
def increment(
    level: tl.tensor,  # [1, LEVELS]
    quantile: tl.tensor,  # [R, LEVELS]
    p: tl.tensor,  # float64
    ORDER: tl.constexpr,
) -> tl.tensor:
    """|x_{l+1} − τ|^p − |x_l − τ|^p: what moving mass one level up costs where the coupling sends it to τ."""
    return distance_power(tl.abs(level + 1 - quantile), p, ORDER) - distance_power(tl.abs(level - quantile), p, ORDER)
