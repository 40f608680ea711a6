"""Device functions: the monotone coupling of two weighted point sets on a line, one pair in one program. Formulas and
their derivation: wassrank/reference/wasserstein_1d.py.

Whatever the weights, lanes have equal work: they share out the n + m cells of the staircase, each of which finds its
place by a binary search (merge path). In float64 whatever the values' type.

A side is a tuple, pointers set to the pair's own:

    values, weights, mask   as given; weights and mask None where there are none
    order                   places by rising value, those that take no part last
    line, apart             up to four numbers a point, by rank, `apart` elements apart: value, height, the slopes'
                            running sum and the step that the potential takes to the point
    points                  how many, taking part or not

Lanes read there what others have written: between the functions that write and those that read lies a barrier.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wassrank.reference.wasserstein_1d import TIE as TIED_MASSES

from .level_transport import ORDER_1, ORDER_2, distance_power, increment
from .line_transport import first_reaching
from .rows import list_bounds

TIE = tl.constexpr(TIED_MASSES)


@triton.jit
def side_of(
    given: tl.tuple,  # values, weights, mask; order; offsets of packed lists, or None: pointers
    strides: tl.tuple,  # of the first four, from a pair's to the next's
    line: tl.tensor,  # pointer
    apart: tl.tensor,  # int64
    pair: tl.tensor,  # int64
    slot: tl.tensor,  # int64, the pair's place in the workspace, where lists are not packed
    pairs: tl.tensor,
    points: tl.tensor,
    COLUMN: tl.constexpr,
) -> tuple[tl.tuple, tl.tensor]:
    """The side, and where the pair's elements of the outputs begin."""
    values, weights, mask, order, offsets = given
    if offsets is None:
        values_stride, weights_stride, mask_stride, order_stride = strides
        begin, own = pair * points, points.to(COLUMN)
        values += pair * values_stride
        order += pair * order_stride
        line += slot * points
        if weights is not None:
            weights += pair * weights_stride
        if mask is not None:
            mask += pair * mask_stride
    else:
        begin, own = list_bounds(offsets, pair, pairs, COLUMN)
        values += begin
        order += begin
        line += begin
        if weights is not None:
            weights += begin
        if mask is not None:
            mask += begin
    return (values, weights, mask, order, line, apart, own), begin


@triton.jit
def larger(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    return tl.maximum(a, b)


@triton.jit
def lay_out(
    side: tl.tuple,
    C: tl.constexpr,
    COLUMN: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Writes values and heights by rank. How many points take part; the weights' total, float64; whether something is
    wrong with what takes part, bool."""
    values, weights, mask, order, line, apart, points = side
    wrong = tl.zeros((BLOCK,), tl.int32)
    taking = tl.zeros((BLOCK,), COLUMN)
    last = tl.zeros((BLOCK,), COLUMN)
    total = tl.zeros((), tl.float64)
    for start in range(0, points, BLOCK):
        at = start + tl.arange(0, BLOCK).to(COLUMN)
        place, inside, part = points_at(mask, order, at, points)
        x = tl.load(values + place, mask=part, other=0).to(C)
        wrong |= (x - x != 0).to(tl.int32)
        taking += part.to(COLUMN)
        tl.store(line + at, x.to(tl.float64), mask=inside)
        if weights is not None:
            weight = tl.load(weights + place, mask=part, other=0)
            wrong |= ((weight - weight != 0) | (weight < 0)).to(tl.int32)
            last = tl.where(weight > 0, at, last)
            # Each sum of a scan rounds for itself. The largest so far does not fall, or the staircase would.
            sums = tl.associative_scan(total + tl.cumsum(weight.to(tl.float64), axis=0), 0, larger)
            tl.store(line + apart + at, tl.maximum(sums, total), mask=inside)
            total = tl.maximum(total, tl.max(sums, axis=0))
    count = tl.sum(taking, axis=0)
    is_wrong = tl.max(wrong, axis=0) != 0
    if weights is None:
        total += count.to(tl.float64)
    else:
        is_wrong |= (count > 0) & ~(total > 0)
        tl.debug_barrier()
    last_with_mass = tl.max(last, axis=0)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK).to(COLUMN)
        inside = at < count
        if weights is None:
            height = (at + 1).to(tl.float64) / total
        else:
            height = tl.minimum(tl.load(line + apart + at, mask=inside, other=0) / total, 1.0)
            # To the last bit, or rounding would send some to points behind it.
            height = tl.where(at >= last_with_mass, 1.0, height)
        tl.store(line + apart + at, height, mask=inside)
    return count, total, is_wrong


@triton.jit
def points_at(
    mask: tl.tensor,  # pointer, or None
    order: tl.tensor,  # pointer
    at: tl.tensor,  # [B] ranks
    points: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Places, [B]; which ranks are those of any point, and which of one that takes part, [B] bool."""
    inside = at < points
    place = tl.load(order + at, mask=inside, other=0)
    part = inside
    if mask is not None:
        part &= tl.load(mask + place, mask=inside, other=0) != 0
    return place, inside, part


@triton.jit
def climb(
    u: tl.tuple,
    v: tl.tuple,
    n: tl.tensor,  # points of u that take part, of COLUMN
    m: tl.tensor,
    p: tl.tensor,  # float64
    searches: tl.tensor,  # steps of a binary search among either side's points
    SLOPES: tl.constexpr,
    POTENTIALS: tl.constexpr,
    ORDER: tl.constexpr,
    COLUMN: tl.constexpr,
    BLOCK: tl.constexpr,
    HALVINGS: tl.constexpr,  # of BLOCK, until none is left
) -> tl.tensor:
    """W_p^p, float64. With SLOPES writes at each point the running sum over the cells of mass · ∂|x − y|^p/∂x, up to
    the last cell that has the point. With POTENTIALS at each but the first the step that leads there.

    A slope is the difference of two such sums, and the terms of a point's cells may be far below them. Rounding leaves
    in it about 1e-16 of p · Σ mass |x − y|^(p−1): what a point of the mean mass has, times n · 1e-16."""
    u_values, u_weights, u_mask, u_order, u_line, u_apart, u_points = u
    v_values, v_weights, v_mask, v_order, v_line, v_apart, v_points = v
    u_height, v_height = u_line + u_apart, v_line + v_apart
    first = n * 0  # u's point in the block's first cell
    running = tl.zeros((), tl.float64)
    cost = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, n + m, BLOCK):
        step = tl.arange(0, BLOCK).to(COLUMN)
        k = start + step
        inside = k < n + m
        # Cell k lies behind k heights, i of them u's. Of equal heights u's come first.
        low = tl.maximum(first, k - m)
        high = tl.minimum(first + step, n)
        for _ in range(HALVINGS):
            middle = (low + high) // 2
            between = inside & (low < high)
            F = tl.load(u_height + middle, mask=between, other=0)
            G = tl.load(v_height + k - 1 - middle, mask=between, other=0)
            low, high = (
                tl.where(between & (F <= G), middle + 1, low),
                tl.where(between & (F > G), middle, high),
            )
        i, j = low, k - low
        F = tl.load(u_height + i, mask=inside & (i < n), other=float("inf"))
        G = tl.load(v_height + j, mask=inside & (j < m), other=float("inf"))
        F_below = tl.load(u_height + i - 1, mask=inside & (i > 0), other=0)
        G_below = tl.load(v_height + j - 1, mask=inside & (j > 0), other=0)
        mass = tl.where(inside, tl.minimum(F, G) - tl.maximum(F_below, G_below), 0.0)
        closes_u = F <= G
        x = tl.load(u_line + tl.minimum(i, n - 1), mask=inside, other=0)
        y = tl.load(v_line + tl.minimum(j, m - 1), mask=inside, other=0)
        cost += mass * distance_power(tl.abs(x - y), p, ORDER)
        if SLOPES:
            slope = mass * slope_of(x - y, p, ORDER)
            sums = running + tl.cumsum(slope, axis=0)
            tl.store(u_height + u_apart + i, sums, mask=inside & closes_u)
            tl.store(v_height + v_apart + j, sums, mask=inside & ~closes_u)
            running += tl.sum(slope, axis=0)
        if POTENTIALS:
            # What the cell closes, and where: a pointer to its value; so of the other side's first.
            own = tl.where(closes_u, u_line + i, v_line + j)
            other = tl.where(closes_u, v_line, u_line)
            other_count = tl.where(closes_u, m, n)
            goes_on = inside & tl.where(closes_u, i + 1 < n, j + 1 < m)
            here, faces = tl.where(closes_u, x, y), tl.where(closes_u, y, x)
            there = tl.load(own + 1, mask=goes_on, other=0)
            step = increment(here, there, faces, p, ORDER)
            # Where heights tie, the mean of the steps that face the first and the last of those that do.
            height = tl.minimum(F, G)
            other_below = tl.where(closes_u, G_below, F_below)
            tied = goes_on & ((tl.maximum(F, G) <= height + TIE) | (other_below >= height - TIE))
            if tl.max(tied.to(tl.int32), axis=0) != 0:
                other_height = other + tl.where(closes_u, v_apart, u_apart)
                left = first_reaching(other_height, k, height - TIE, other_count, searches, False)
                right = first_reaching(other_height, k, height + TIE, other_count, searches, True)
                left = tl.load(other + tl.minimum(left, other_count - 1), mask=tied, other=0)
                right = tl.load(other + tl.minimum(right, other_count - 1), mask=tied, other=0)
                both = increment(here, there, left, p, ORDER) + increment(here, there, right, p, ORDER)
                step = tl.where(tied, 0.5 * both, step)
            tl.store(own + 1 + 3 * tl.where(closes_u, u_apart, v_apart), step, mask=goes_on)
        first = tl.max(tl.where(inside, i + closes_u.to(COLUMN), 0), axis=0)
    return tl.sum(cost, axis=0)


@triton.jit
def slope_of(
    d: tl.tensor,  # float64
    p: tl.tensor,  # float64
    ORDER: tl.constexpr,
) -> tl.tensor:
    """The derivative of |d|^p."""
    if ORDER == ORDER_2:
        return 2 * d
    sign = (d > 0).to(tl.float64) - (d < 0).to(tl.float64)
    if ORDER == ORDER_1:
        return sign
    return sign * p * distance_power(tl.abs(d), p - 1, ORDER)


@triton.jit
def write_slopes(
    side: tl.tuple,
    count: tl.tensor,  # points that take part; none where there is no distance
    sign: tl.tensor,  # of ∂(x − y) by the side's points
    nothing: tl.tensor,  # what the points that take part have then
    slopes: tl.tensor,  # pointer to what is written, of C
    COLUMN: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    values, weights, mask, order, line, apart, points = side
    sums = line + 2 * apart
    for start in range(0, points, BLOCK):
        at = start + tl.arange(0, BLOCK).to(COLUMN)
        place, inside, part = points_at(mask, order, at, points)
        slope = tl.load(sums + at, mask=at < count, other=0)
        slope -= tl.load(sums + at - 1, mask=(at < count) & (at > 0), other=0)
        slope = tl.where(at < count, sign * slope, tl.where(part, nothing, 0.0))
        tl.store(slopes + place, slope.to(slopes.dtype.element_ty), mask=inside)


@triton.jit
def write_potentials(
    side: tl.tuple,
    count: tl.tensor,  # as in write_slopes
    total: tl.tensor,  # of the weights, float64
    nothing: tl.tensor,
    potentials: tl.tensor,  # pointer to what is written, of C
    COLUMN: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """(φ − Σ m φ) / Σ weights: whatever φ's first value."""
    values, weights, mask, order, line, apart, points = side
    height, steps = line + apart, line + 3 * apart
    phi = tl.zeros((), tl.float64)
    mean = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK).to(COLUMN)
        inside = at < count
        mass = tl.load(height + at, mask=inside, other=0)
        mass -= tl.load(height + at - 1, mask=inside & (at > 0), other=0)
        step = tl.load(steps + at, mask=inside & (at > 0), other=0)
        here = phi + tl.cumsum(step, axis=0)
        tl.store(steps + at, here, mask=inside)
        phi += tl.sum(step, axis=0)
        mean += mass * here
    middle = tl.sum(mean, axis=0)
    tl.debug_barrier()
    for start in range(0, points, BLOCK):
        at = start + tl.arange(0, BLOCK).to(COLUMN)
        place, inside, part = points_at(mask, order, at, points)
        potential = (tl.load(steps + at, mask=at < count, other=0) - middle) / total
        potential = tl.where(at < count, potential, tl.where(part, nothing, 0.0))
        tl.store(potentials + place, potential.to(potentials.dtype.element_ty), mask=inside)
