"""Device functions shared by the row losses: read a row of scores, gather its statistics in one sweep.

A program works on R rows at a time; every tensor below carries them first. A row's passages are its own, whose grades
its labels give (the whole row, or with in-batch negatives a block of K columns), and the others, which all count as one
grade. For the own passages the sweep keeps Σ exp((s − s_max)/temperature) and the number of passages by level, for the
others one of each. What a loss makes of these sums is its epilogue; see level_transport.py.

A passage takes part unless its score is −inf or its mask False: both become −inf when scores are loaded, and nothing
else marks them from there on.

Each of the G lanes that share a row runs its own online softmax, and they meet once, at the end: the loop over blocks
holds loads and arithmetic, no exchange between threads. A block of B = U·G·V columns is read as [R, B] and viewed as
[R, U, G, V], V consecutive columns belonging to one lane, so that sums over U and V stay within it. Should the compiler
lay a block out otherwise, the result is the same and the sums cost shuffles; tests/test_kernel_resources.py counts
them.

Offsets into [Q, N] are 64-bit. Exponentials are 2^(x·log2(e)/temperature), the maximum being taken off x first.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def float64_scalar(x: tl.tensor) -> tl.tensor:
    """A kernel's float parameter, in full. Parameters annotated tl.float64 are passed as doubles (without that Triton
    passes a Python float as float32); the interpreter hands them on as Python floats, which arithmetic with a tensor
    would round to the tensor's type."""
    return tl.full((), x, tl.float64)


@triton.jit
def load_scores(
    scores: tl.tensor,  # pointer
    mask: tl.tensor,  # pointer, or None
    at: tl.tensor,  # [R, B] int64, elements of scores
    mask_at: tl.tensor,  # [R, B] int64, elements of mask
    inside: tl.tensor,  # [R, B] bool, what may be read
    C: tl.constexpr,
) -> tl.tensor:
    """[R, B] of the computing type C (half types are only ever loaded and stored), −inf where no passage takes part."""
    s = tl.load(scores + at, mask=inside, other=float("-inf")).to(C)
    if mask is not None:
        s = tl.where(tl.load(mask + mask_at, mask=inside, other=0) != 0, s, float("-inf"))
    return s


@triton.jit
def load_levels(
    labels: tl.tensor,  # pointer to integers of any width
    at: tl.tensor,  # [R, B] int64
    inside: tl.tensor,  # [R, B] bool
    num_levels: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """Levels, [R, B] int32, and which labels stray from 0 … num_levels−1; their level reads 0. Compared at the labels'
    own width: 2^32 must not look like 0."""
    label = tl.load(labels + at, mask=inside, other=0)
    stray = (label < 0) | (label >= num_levels)
    return tl.where(stray, 0, label).to(tl.int32), stray


@triton.jit
def load_target(
    target: tl.tensor,  # pointer
    at: tl.tensor,  # [R, B] int64
    inside: tl.tensor,  # [R, B] bool, what may be read
    takes_part: tl.tensor,  # [R, B] bool; not what decides the load, which could then not be wide
) -> tl.tensor:
    """[R, B], 0 where no passage takes part."""
    return tl.where(takes_part, tl.load(target + at, mask=inside, other=0), 0.0)


@triton.jit
def sweep_own(
    scores: tl.tensor,  # pointer to [Q, N]
    labels: tl.tensor,  # pointer to [Q, K]
    mask: tl.tensor,  # pointer, or None
    target: tl.tensor,  # pointer to given masses of C, or None
    row: tl.tensor,  # [R] int64
    at_row: tl.tensor,  # [R] int64, the first own passage in scores,
    mask_at_row: tl.tensor,  # in mask,
    target_at_row: tl.tensor,  # and in target
    Q: tl.tensor,
    K: tl.tensor,
    num_levels: tl.tensor,
    exponent_scale: tl.tensor,  # log2(e) / temperature, of C
    R: tl.constexpr,
    U: tl.constexpr,
    G: tl.constexpr,
    V: tl.constexpr,
    LEVELS: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Of the row's own passages: maximum, [R], −inf if none takes part; Σ exp, how many, given target mass, each
    [R, LEVELS] float64. A label that strays on a passage that takes part makes "how many" NaN."""
    top = tl.full((R, G), float("-inf"), C)
    mass = tl.zeros((R, G, LEVELS), C)
    count = tl.zeros((R, G, LEVELS), tl.float32)
    given = tl.zeros((R, G, LEVELS), C)
    for start in range(0, K, U * G * V):
        k = (start + tl.arange(0, U * G * V))[None, :]
        inside = (row < Q)[:, None] & (k < K)
        s = load_scores(scores, mask, at_row[:, None] + k, mask_at_row[:, None] + k, inside, C)
        level, stray = load_levels(labels, (row * K)[:, None] + k, inside, num_levels)
        takes_part = s != float("-inf")
        one = tl.where(takes_part, tl.where(stray, float("nan"), 1.0), 0.0)

        level = tl.reshape(level, (R, U, G, V))
        top, mass = add_block(tl.reshape(s, (R, U, G, V)), level, top, mass, exponent_scale, LEVELS)
        count += sum_by_level(tl.reshape(one, (R, U, G, V)), level, 0, LEVELS)
        if target is not None:
            t = load_target(target, target_at_row[:, None] + k, inside, takes_part)
            given += sum_by_level(tl.reshape(t, (R, U, G, V)), level, 0, LEVELS)
    row_top, masses, counts, masses_given = meet(top, mass, count, given, exponent_scale)
    return row_top, masses, counts, masses_given


@triton.jit
def sweep_others(
    scores: tl.tensor,  # pointer to [Q, N]
    mask: tl.tensor,  # pointer, or None
    target: tl.tensor,  # pointer to [Q, N] of C; None where other passages are given no target
    row: tl.tensor,  # [R] int64
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    mask_stride: tl.tensor,
    exponent_scale: tl.tensor,  # log2(e) / temperature, of C
    R: tl.constexpr,
    U: tl.constexpr,
    G: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The same, [R] and [R, 1], of the passages outside columns row·K … row·K + K − 1."""
    top = tl.full((R, G), float("-inf"), C)
    mass = tl.zeros((R, G, 1), C)
    count = tl.zeros((R, G, 1), tl.float32)
    given = tl.zeros((R, G, 1), C)
    for start in range(0, N, U * G * V):
        column = (start + tl.arange(0, U * G * V))[None, :]
        inside = (row < Q)[:, None] & (column < N)
        at = (row * N)[:, None] + column
        s = load_scores(scores, mask, at, (row * mask_stride)[:, None] + column, inside, C)
        # Own passages are read and then struck out: a load that skipped them could not be wide.
        own = (row * K).to(column.dtype)[:, None]
        s = tl.where((column < own) | (column >= own + K), s, float("-inf"))
        takes_part = s != float("-inf")

        top, mass = add_block(tl.reshape(s, (R, U, G, V)), None, top, mass, exponent_scale, 1)
        count += sum_by_level(tl.reshape(takes_part.to(tl.float32), (R, U, G, V)), None, 0, 1)
        if target is not None:
            t = load_target(target, at, inside, takes_part)
            given += sum_by_level(tl.reshape(t, (R, U, G, V)), None, 0, 1)
    row_top, masses, counts, masses_given = meet(top, mass, count, given, exponent_scale)
    return row_top, masses, counts, masses_given


@triton.jit
def add_block(
    s: tl.tensor,  # [R, U, G, V]
    level: tl.tensor,  # [R, U, G, V], or None where LEVELS is 1
    top: tl.tensor,  # [R, G], each lane's maximum so far
    mass: tl.tensor,  # [R, G, LEVELS], its Σ exp relative to that
    exponent_scale: tl.tensor,
    LEVELS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """(top, mass) with a block more."""
    higher = tl.maximum(top, tl.max(tl.max(s, axis=3), axis=1))
    e = exp_below(s, higher[:, None, :, None], exponent_scale)
    mass = mass * exp_below(top, higher, exponent_scale)[:, :, None]
    return higher, mass + sum_by_level(e, level, 0, LEVELS)


@triton.jit
def sum_by_level(
    x: tl.tensor,  # [R, U, G, V]
    level: tl.tensor,  # [R, U, G, V], or None where LEVELS is 1
    FIRST: tl.constexpr,
    LEVELS: tl.constexpr,
) -> tl.tensor:
    """[R, G, LEVELS]: each lane's sums of x over levels FIRST … FIRST + LEVELS − 1, a power of two of them.

    Put together by joining halves, which leaves all of a lane's levels in its registers. A comparison with a vector of
    levels would spread them over lanes and send every x through shared memory.
    """
    if LEVELS == 1:
        sums = lane_sum(x)[:, :, None]
    elif LEVELS == 2:
        sums = tl.join(lane_sum(tl.where(level == FIRST, x, 0.0)), lane_sum(tl.where(level == FIRST + 1, x, 0.0)))
    else:
        HALF: tl.constexpr = LEVELS // 2
        low = sum_by_level(x, level, FIRST, HALF)
        high = sum_by_level(x, level, FIRST + HALF, HALF)
        halves = tl.permute(tl.join(low, high), (0, 1, 3, 2))  # [R, G, 2, HALF]
        sums = tl.reshape(halves, (low.shape[0], low.shape[1], LEVELS))
    return sums


@triton.jit
def lane_sum(
    x: tl.tensor,  # [R, U, G, V]
) -> tl.tensor:
    """[R, G]"""
    return tl.sum(tl.sum(x, axis=3), axis=1)


@triton.jit
def meet(
    top: tl.tensor,  # [R, G]
    mass: tl.tensor,  # [R, G, LEVELS]
    count: tl.tensor,
    given: tl.tensor,
    exponent_scale: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The lanes' statistics as the row's, sums in float64."""
    row_top = tl.max(top, axis=1)
    mass = mass * exp_below(top, row_top[:, None], exponent_scale)[:, :, None]
    return row_top, spread(tl.sum(mass, axis=1)), spread(tl.sum(count, axis=1)), spread(tl.sum(given, axis=1))


@triton.jit
def spread(
    x: tl.tensor,  # [R, LEVELS]
) -> tl.tensor:
    """x in float64, laid out afresh.

    The compiler would carry the joined layout, all levels of a row in every lane, through the whole epilogue, which
    with 32 levels is 64 registers a vector. It takes the layout of a gather from its index: one level a lane.
    """
    level = tl.arange(0, x.shape[1])[None, :]
    return tl.gather(x, tl.broadcast_to(level, x.shape), axis=1).to(tl.float64)


@triton.jit
def exp_below(
    x: tl.tensor,  # scores, or maxima of some
    top: tl.tensor,  # at least as high
    exponent_scale: tl.tensor,
) -> tl.tensor:
    """exp((x − top) / temperature); 0 for x = −inf, also where that is the highest."""
    return tl.exp2((x - tl.where(top == float("-inf"), 0.0, top)) * exponent_scale)
