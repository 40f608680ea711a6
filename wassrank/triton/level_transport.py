"""Device functions: transport between two mass vectors on LEVELS rising coordinates, cost and the source's potential.

Formulas and their derivation: wassrank/reference/transport.py. In float64 whatever the scores' type: a row has LEVELS
masses, and the difference of running masses is where precision would go.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wassrank.reference import transport

ROUNDING = tl.constexpr(transport.ROUNDING)

# Orders p with a formula of their own: any other costs a float64 logarithm and exponential a distance.
ORDER_1 = tl.constexpr(1)
ORDER_2 = tl.constexpr(2)
ORDER_ANY = tl.constexpr(0)


@triton.jit
def coordinates(
    position: tl.tensor,  # pointer to [num_levels] float64, rising; None: the levels themselves
    level: tl.tensor,  # int32
    num_levels: tl.tensor,
) -> tl.tensor:
    """Where levels lie on the line; those past the last, on the last."""
    return level if position is None else tl.load(position + tl.minimum(level, num_levels - 1))


@triton.jit
def distance_power(
    d: tl.tensor,  # >= 0
    p: tl.tensor,  # float64
    ORDER: tl.constexpr,
) -> tl.tensor:
    """d^p in float64."""
    d = d.to(tl.float64)
    if ORDER == ORDER_2:
        d = d * d
    elif ORDER == ORDER_ANY:
        d = tl.exp2(p * tl.log2(d))  # 2^−∞ = 0
    return d


@triton.jit
def level_transport(
    m: tl.tensor,  # [R, LEVELS] float64, the source, each row summing to one
    t: tl.tensor,  # [R, LEVELS] float64, the target, likewise
    position: tl.tensor,  # pointer, or None; see coordinates
    num_levels: tl.tensor,  # levels from here up to LEVELS are empty
    p: tl.tensor,  # float64
    tie: tl.tensor,  # float64, running masses this close, relatively, count as equal
    ORDER: tl.constexpr,
    LEVELS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """W_p^p, [R], and the potential φ, [R, LEVELS], φ_0 = 0."""
    level = tl.arange(0, LEVELS)[None, :]
    x = coordinates(position, level, num_levels)
    next_x = coordinates(position, level + 1, num_levels)
    gap = tl.cumsum(m - t, axis=1)  # F − G, summed from differences to keep the masses' relative precision
    if ORDER == ORDER_1:
        width = tl.where(level + 1 < num_levels, next_x - x, 0).to(tl.float64)
        cost = tl.sum(tl.abs(gap) * width, axis=1)
        slack = tie_slack(tl.cumsum(m, axis=1), tie)
        step = tl.where(gap > slack, -width, tl.where(gap < -slack, width, 0.0))
    else:
        G = tl.cumsum(t, axis=1)
        F = G + gap
        # [R, j, k] from here on: the monotone coupling of source level j with target level k.
        above = tl.minimum(F[:, :, None], G[:, None, :])
        below = tl.maximum((F - m)[:, :, None], (G - t)[:, None, :])
        source_x = coordinates(position, tl.arange(0, LEVELS)[:, None], num_levels)
        ground = distance_power(tl.abs(source_x - x), p, ORDER)[None, :, :]
        cost = tl.sum(tl.sum(tl.maximum(above - below, 0.0) * ground, axis=2), axis=1)

        # Quantiles of F in the target just below and just above a tie; φ takes the mean of their two increments.
        last = tl.max(tl.where(t > 0, level, 0), axis=1)[:, None]
        slack = tie_slack(F, tie)
        lower = tl.minimum(tl.sum((G[:, None, :] < (F - slack)[:, :, None]).to(tl.int32), axis=2), last)
        upper = tl.minimum(tl.sum((G[:, None, :] <= (F + slack)[:, :, None]).to(tl.int32), axis=2), last)
        down = increment(x, next_x, coordinates(position, lower, num_levels), p, ORDER)
        step = 0.5 * (down + increment(x, next_x, coordinates(position, upper, num_levels), p, ORDER))
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
    x: tl.tensor,  # [1, LEVELS]
    next_x: tl.tensor,  # [1, LEVELS]
    quantile: tl.tensor,  # [R, LEVELS]
    p: tl.tensor,  # float64
    ORDER: tl.constexpr,
) -> tl.tensor:
    """|x_{l+1} − τ|^p − |x_l − τ|^p: what moving mass one level up costs where the coupling sends it to τ."""
    return distance_power(tl.abs(next_x - quantile), p, ORDER) - distance_power(tl.abs(x - quantile), p, ORDER)
