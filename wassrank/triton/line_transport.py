"""Transport between the masses of a row's passages, walked in the order of their coordinates: cost, and of the source's
potential φ what goes with a passage's exponential. Formulas and their derivation: wassrank/reference/transport.py.

Points of a row are its own passages by rising coordinate and, where they take part, the others: one more point, behind
those that lie no higher. Running sums F of the masses and G of the target's go from block to block in float64. What
takes no part has no mass on either side and stays in the row; on_line says where.

p = 1 needs nothing but these sums. So `line_distance` walks a row twice in one program and stores none of them: φ is a
scan, its mean and the cost are found in the first walk, coefficients written in the second (in one walk where one block
holds a row). For any other p the mass at
F_i goes to a point that only the whole of G tells. It takes three kernels, each of which finds in memory what the one
before wrote:

    lay_out              x, F and G of every point, in order (in the forward's kernel)
    quantiles_kernel     by binary search in them φ's increments and the cost, of any number of points at once
    coefficients_kernel  scans the increments to φ and writes the coefficients

The cost is summed point by point, with no walk along both sides. Cut the masses at every F_i and every G_k: what lies
between two neighbouring cuts goes from one point to one point. The stretch that ends at F_i begins at F_{i−1} or at the
last G below F_i, the one that ends at G_k at G_{k−1} or at the last F not above G_k; of two equal cuts G's stretch has
no length.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .level_transport import distance_power, increment, tie_slack
from .rows import exp_below, float64_scalar, list_bounds, load_scores
from .sorted_rows import STATE_WIDTH, gain_of, on_line, own_bounds

# A row's numbers that the forward's kernel leaves for those after it: price, factor, push and rest as in
# sorted_losses.py; the maximum, 1/Z, the others' mass, rank and number; ranks of the target's first and last point with
# mass.
RECORD = tl.constexpr(11)
AT_ENDS = tl.constexpr(9)


@triton.jit
def share_of_scores(
    passages: tl.tuple,  # pointers to the row's scores, labels, mask, target, coordinates, order; own passages
    line: tl.tuple,  # its ends, where the others lie, their rank; how many points
    masses: tl.tuple,  # the row's maximum, log2(e) / temperature, of C; 1/Z, the others' mass, float64
    at: tl.tensor,  # [B] ranks
    OTHERS: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Of the points of these ranks: place among the own passages, [B]; whether it is one, and whether one that takes
    part, [B] bool; the share m of the scores' mass, [B] float64."""
    scores, labels, mask, target, coordinates, order, own = passages
    low, high, others_x, rank, count = line
    top, exponent_scale, mass_scale, others_mass = masses
    place, inside = place_of(order, at, own, rank, OTHERS)
    s = load_scores(scores, mask, place, place, inside, C)
    m = exp_below(s, top, exponent_scale).to(tl.float64) * mass_scale
    if OTHERS:
        m = tl.where(at == rank, others_mass, m)
    return place, inside, s != float("-inf"), m


@triton.jit
def share_of_target(
    passages: tl.tuple,
    line: tl.tuple,
    gains: tl.tuple,  # the highest label, log2(e) / label temperature, of C; 1/Σ gain, the others' share, float64
    at: tl.tensor,  # [B] ranks
    place: tl.tensor,  # and what share_of_scores says of them
    inside: tl.tensor,
    takes_part: tl.tensor,
    TARGET: tl.constexpr,
    OTHERS: tl.constexpr,
    C: tl.constexpr,
) -> tl.tensor:
    """t, the share of the target's mass, [B] float64."""
    scores, labels, mask, target, coordinates, order, own = passages
    low, high, others_x, rank, count = line
    label_top, label_scale, gain_scale, others_gain = gains
    y = tl.load(labels + place, mask=inside, other=0)
    t = gain_of(target, place, inside, y, takes_part, label_top, label_scale, TARGET, C).to(tl.float64) * gain_scale
    if OTHERS:
        t = tl.where(at == rank, others_gain, t)
    return t


@triton.jit
def place_of(
    order: tl.tensor,  # pointer to int32
    at: tl.tensor,  # [B] ranks
    own: tl.tensor,
    rank: tl.tensor,  # the others'
    OTHERS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Places of the own passages of these ranks, [B], and which ranks are those of any, [B] bool."""
    i = at
    if OTHERS:
        i = at - (at > rank).to(at.dtype)
    inside = i < own
    if OTHERS:
        inside &= at != rank
    place = tl.load(order + i, mask=inside, other=0)
    # An order that is none does not lead out of the row.
    return tl.minimum(tl.maximum(place, 0), own - 1), inside


@triton.jit
def coordinate_of(
    passages: tl.tuple,
    line: tl.tuple,
    at: tl.tensor,  # [B] ranks
    OTHERS: tl.constexpr,
) -> tl.tensor:
    """[B] float64, rising; behind the last point anything."""
    scores, labels, mask, target, coordinates, order, own = passages
    low, high, others_x, rank, count = line
    place, inside = place_of(order, at, own, rank, OTHERS)
    x = on_line(tl.load(coordinates + place, mask=inside, other=0), low, high)
    if OTHERS:
        x = tl.where(at == rank, others_x, x)
    return x


@triton.jit
def line_distance(
    passages: tl.tuple,
    line: tl.tuple,
    masses: tl.tuple,
    gains: tl.tuple,
    coefficient: tl.tensor,  # pointer to what is written, of C
    factor: tl.tensor,  # float64, 0 where the distance does not count
    push: tl.tensor,  # float64, added to every coefficient
    tie: tl.tensor,  # float64
    TARGET: tl.constexpr,
    OTHERS: tl.constexpr,
    ONE_BLOCK: tl.constexpr,  # whether that holds every row: then one walk does
    BLOCK: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """W_1 and the others' coefficient, float64; writes the own passages'."""
    low, high, others_x, rank, count = line
    zero = tl.zeros((), tl.float64)
    cost, mean, others_phi = zero, zero, zero
    F, gap, phi = zero, zero, zero
    for start in range(0, 1 if ONE_BLOCK else count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        place, inside, takes_part, m, here, spent, F, gap, phi = distance_block(
            passages, line, masses, gains, at, F, gap, phi, tie, TARGET, OTHERS, C
        )
        cost += spent
        mean += tl.sum(m * here, axis=0)
        if OTHERS:
            others_phi += tl.sum(tl.where(at == rank, here, 0.0), axis=0)
        if ONE_BLOCK:
            write_coefficients(coefficient, place, inside, takes_part, here, mean, factor, push)
    if not ONE_BLOCK:
        F, gap, phi = zero, zero, zero
        for start in range(0, count, BLOCK):
            at = start + tl.arange(0, BLOCK)
            place, inside, takes_part, m, here, spent, F, gap, phi = distance_block(
                passages, line, masses, gains, at, F, gap, phi, tie, TARGET, OTHERS, C
            )
            write_coefficients(coefficient, place, inside, takes_part, here, mean, factor, push)
    return cost, coefficient_of(others_phi, mean, factor, push)


@triton.jit
def distance_block(
    passages: tl.tuple,
    line: tl.tuple,
    masses: tl.tuple,
    gains: tl.tuple,
    at: tl.tensor,  # [B] ranks
    F: tl.tensor,  # float64, running mass before them,
    gap: tl.tensor,  # F − G, summed from differences to keep the masses' relative precision,
    phi: tl.tensor,  # and the first one's potential
    tie: tl.tensor,
    TARGET: tl.constexpr,
    OTHERS: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Of a block of points: place, whether it is an own one, and one that takes part, m, potential, [B]; cost; and
    (F, gap, phi) behind it."""
    low, high, others_x, rank, count = line
    place, inside, takes_part, m = share_of_scores(passages, line, masses, at, OTHERS, C)
    t = share_of_target(passages, line, gains, at, place, inside, takes_part, TARGET, OTHERS, C)
    width = coordinate_of(passages, line, at + 1, OTHERS) - coordinate_of(passages, line, at, OTHERS)
    width = tl.where(at + 1 < count, width, 0.0)
    gaps = gap + tl.cumsum(m - t, axis=0)
    slack = tie_slack(F + tl.cumsum(m, axis=0), tie)
    step = tl.where(gaps > slack, -width, tl.where(gaps < -slack, width, 0.0))
    potential = phi + tl.cumsum(step, axis=0) - step
    cost = tl.sum(tl.abs(gaps) * width, axis=0)
    return (
        place, inside, takes_part, m, potential, cost,
        F + tl.sum(m, axis=0), gap + tl.sum(m - t, axis=0), phi + tl.sum(step, axis=0),
    )  # fmt: skip


@triton.jit
def write_coefficients(
    coefficient: tl.tensor,  # pointer to what is written, of C
    place: tl.tensor,  # [B]
    inside: tl.tensor,  # [B] bool, which points are own passages
    takes_part: tl.tensor,  # [B] bool
    phi: tl.tensor,  # [B] float64
    mean: tl.tensor,  # float64, of φ
    factor: tl.tensor,
    push: tl.tensor,
) -> None:
    """c of the own passages among these points, 0 for what takes no part."""
    c = coefficient_of(phi, mean, factor, push)
    c = tl.where(takes_part | (c != c), c, 0.0)  # a row that is not sound is NaN throughout
    tl.store(coefficient + place, c.to(coefficient.dtype.element_ty), mask=inside)


@triton.jit
def coefficient_of(
    phi: tl.tensor,  # float64
    mean: tl.tensor,
    factor: tl.tensor,
    push: tl.tensor,
) -> tl.tensor:
    """c, float64. Where the distance does not count φ may be anything."""
    return tl.where(factor != 0, factor * (phi - mean), 0.0) + push


@triton.jit
def write_row(
    row_loss: tl.tensor,  # pointer to [Q] of C
    state: tl.tensor,  # pointer to [Q, STATE_WIDTH] of C
    row: tl.tensor,
    price: tl.tensor,  # float64, of the distance; 0 where it does not count
    rest: tl.tensor,  # float64, the weighted loss but for the distance
    cost: tl.tensor,  # float64, the distance
    others_c: tl.tensor,  # float64
    others_count: tl.tensor,  # float64, how many take part
) -> None:
    """The row's loss and, in its state, the others' coefficient."""
    C: tl.constexpr = state.dtype.element_ty
    tl.store(row_loss + row, (rest + tl.where(price != 0, price * cost, 0.0)).to(C))
    tl.store(state + row * STATE_WIDTH, tl.where((others_count > 0) | (rest != rest), others_c, 0.0).to(C))


@triton.jit
def lay_out(
    passages: tl.tuple,
    line: tl.tuple,
    masses: tl.tuple,
    gains: tl.tuple,
    x_at: tl.tensor,  # pointers to what is written, float64, a number a point
    F_at: tl.tensor,
    G_at: tl.tensor,
    TARGET: tl.constexpr,
    OTHERS: tl.constexpr,
    BLOCK: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Ranks of the target's first and last point with mass; the last point's and 0 where none has."""
    low, high, others_x, rank, count = line
    F = tl.zeros((), tl.float64)
    G = tl.zeros((), tl.float64)
    first = tl.arange(0, BLOCK) * 0 + count - 1
    last = first * 0
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < count
        place, own_point, takes_part, m = share_of_scores(passages, line, masses, at, OTHERS, C)
        t = share_of_target(passages, line, gains, at, place, own_point, takes_part, TARGET, OTHERS, C)
        tl.store(x_at + at, coordinate_of(passages, line, at, OTHERS), mask=inside)
        tl.store(F_at + at, F + tl.cumsum(m, axis=0), mask=inside)
        tl.store(G_at + at, G + tl.cumsum(t, axis=0), mask=inside)
        F += tl.sum(m, axis=0)
        G += tl.sum(t, axis=0)
        first = tl.where(t > 0, tl.minimum(first, at), first)
        last = tl.where(t > 0, tl.maximum(last, at), last)
    return tl.min(first, axis=0), tl.max(last, axis=0)


@triton.jit(do_not_specialize=["Q", "points_a_row", "all_points", "searches"])
def quantiles_kernel(
    line: tl.tensor,  # [4, points] float64: x, F, G; φ's increments are written
    record: tl.tensor,  # [Q, RECORD] float64
    partial_cost: tl.tensor,  # [Q, programs a row] float64
    offsets: tl.tensor,  # [Q + 1] int64 for packed lists, else None
    Q: tl.tensor,
    points_a_row: tl.tensor,
    all_points: tl.tensor,
    searches: tl.tensor,  # steps of a binary search in the longest row
    p: tl.float64,
    tie: tl.float64,
    ORDER: tl.constexpr,
    COLUMN: tl.constexpr,  # integers that count a packed list's columns
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    if offsets is None:
        begin, count = row * points_a_row, points_a_row
    else:
        begin, count = list_bounds(offsets, row, Q, COLUMN)
    all_points = all_points.to(tl.int64)  # four times as many may be more than 32 bits hold
    x_at, F_at, G_at = line + begin, line + all_points + begin, line + 2 * all_points + begin
    first = tl.load(record + row * RECORD + AT_ENDS).to(tl.int64)
    last = tl.load(record + row * RECORD + AT_ENDS + 1).to(tl.int64)
    p, tie = float64_scalar(p), float64_scalar(tie)
    cost = tl.zeros((BLOCK,), tl.float64)
    for start in range(tl.program_id(1) * BLOCK, count, tl.num_programs(1) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < count
        x = tl.load(x_at + at, mask=inside, other=0)
        next_x = tl.load(x_at + at + 1, mask=at + 1 < count, other=0)
        F = tl.load(F_at + at, mask=inside, other=0)
        F_before = tl.load(F_at + at - 1, mask=inside & (at > 0), other=0)
        G = tl.load(G_at + at, mask=inside, other=0)
        G_before = tl.load(G_at + at - 1, mask=inside & (at > 0), other=0)

        slack = tie_slack(F, tie)
        lower = tl.minimum(tl.maximum(first_reaching(G_at, at, F - slack, count, searches, False), first), last)
        upper = tl.minimum(tl.maximum(first_reaching(G_at, at, F + slack, count, searches, True), first), last)
        step = increment(x, next_x, tl.load(x_at + lower, mask=inside, other=0), p, ORDER)
        step = 0.5 * (step + increment(x, next_x, tl.load(x_at + upper, mask=inside, other=0), p, ORDER))
        tl.store(line + 3 * all_points + begin + at, tl.where(at + 1 < count, step, 0.0), mask=inside)

        # Running sums of one and the same mass end within rounding of each other: what is left above the lower end has
        # nowhere to go.
        to = first_reaching(G_at, at, F, count, searches, False)
        cost += stretch(F, F_before, x, G_at, x_at, to, inside & (to < count), p, ORDER)
        source = first_reaching(F_at, at, G, count, searches, True)
        cost += stretch(G, G_before, x, F_at, x_at, source, inside & (source < count), p, ORDER)
    tl.store(partial_cost + row * tl.num_programs(1) + tl.program_id(1), tl.sum(cost, axis=0))


@triton.jit
def first_reaching(
    running: tl.tensor,  # pointer to `count` float64, rising
    at: tl.tensor,  # [B], of the ranks' type
    height: tl.tensor,  # [B] float64
    count: tl.tensor,
    searches: tl.tensor,
    ABOVE: tl.constexpr,
) -> tl.tensor:
    """[B]: the first rank at which the running sum is ≥ height, or with ABOVE > height; count where none is."""
    low = at * 0
    high = low + count
    for _ in range(searches):
        middle = (low + high) // 2
        sum_there = tl.load(running + middle, mask=low < high, other=0)
        short = (low < high) & (sum_there <= height if ABOVE else sum_there < height)
        high = tl.where(short, high, tl.minimum(middle, high))
        low = tl.where(short, middle + 1, low)
    return low


@triton.jit
def stretch(
    end: tl.tensor,  # [B] float64, a cut of the one side,
    before: tl.tensor,  # [B] float64, that side's cut before it
    x: tl.tensor,  # [B] float64, the point of it
    other_running: tl.tensor,  # pointer to the other side's cuts
    x_at: tl.tensor,  # pointer
    other: tl.tensor,  # [B] the rank there of the first cut not below this one
    goes: tl.tensor,  # [B] bool, whether there is one
    p: tl.tensor,
    ORDER: tl.constexpr,
) -> tl.tensor:
    """[B] float64: what it costs to bring the mass between `end` and the cut before it, of whichever side, over."""
    other_before = tl.load(other_running + other - 1, mask=goes & (other > 0), other=0)
    moved = tl.where(goes, tl.maximum(end - tl.maximum(before, other_before), 0.0), 0.0)
    return moved * distance_power(tl.abs(x - tl.load(x_at + other, mask=goes, other=0)), p, ORDER)


@triton.jit(do_not_specialize=["Q", "points_a_row", "all_points", "parts"])
def coefficients_kernel(
    scores: tl.tensor,  # as in the forward's kernel, all that are called alike
    order: tl.tensor,
    mask: tl.tensor,
    offsets: tl.tensor,
    line: tl.tensor,  # [4, points] float64
    record: tl.tensor,  # [Q, RECORD] float64
    partial_cost: tl.tensor,  # [Q, parts] float64
    row_loss: tl.tensor,
    coefficient: tl.tensor,
    state: tl.tensor,
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    own_stride: tl.tensor,
    mask_stride: tl.tensor,
    points_a_row: tl.tensor,
    all_points: tl.tensor,
    parts: tl.tensor,
    exponent_scale: tl.float64,
    OTHERS: tl.constexpr,
    COLUMN: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    C: tl.constexpr = coefficient.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    at_row, labels_at_row, mask_at_row, own = own_bounds(offsets, row, Q, N, K, own_stride, mask_stride, COLUMN)
    count = own
    at_line = labels_at_row
    if OTHERS:
        count = own + 1
        at_line = row * points_a_row
    if mask is not None:
        mask += mask_at_row
    here = record + row * RECORD
    top, mass_scale, others_mass = tl.load(here + 4).to(C), tl.load(here + 5), tl.load(here + 6)
    rank = tl.load(here + 7).to(COLUMN)
    passages = (scores + at_row, None, mask, None, None, order + labels_at_row, own)
    on = (None, None, None, rank, count)
    masses = (top, float64_scalar(exponent_scale).to(C), mass_scale, others_mass)
    steps = line + 3 * all_points.to(tl.int64) + at_line

    mean = tl.zeros((), tl.float64)
    others_phi = tl.zeros((), tl.float64)
    phi = tl.zeros((), tl.float64)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        place, inside, takes_part, m = share_of_scores(passages, on, masses, at, OTHERS, C)
        step = tl.load(steps + at, mask=at < count, other=0)
        potential = phi + tl.cumsum(step, axis=0) - step
        phi += tl.sum(step, axis=0)
        mean += tl.sum(m * potential, axis=0)
        if OTHERS:
            others_phi += tl.sum(tl.where(at == rank, potential, 0.0), axis=0)
    factor, push = tl.load(here + 1), tl.load(here + 2)
    phi = tl.zeros((), tl.float64)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        place, inside, takes_part, m = share_of_scores(passages, on, masses, at, OTHERS, C)
        step = tl.load(steps + at, mask=at < count, other=0)
        potential = phi + tl.cumsum(step, axis=0) - step
        phi += tl.sum(step, axis=0)
        write_coefficients(coefficient + labels_at_row, place, inside, takes_part, potential, mean, factor, push)
    cost = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, parts, BLOCK):
        part = start + tl.arange(0, BLOCK)
        cost += tl.load(partial_cost + row * parts + part, mask=part < parts, other=0)
    others_c = coefficient_of(others_phi, mean, factor, push)
    price, rest, others_count = tl.load(here), tl.load(here + 3), tl.load(here + 8)
    write_row(row_loss, state, row, price, rest, tl.sum(cost, axis=0), others_c, others_count)
