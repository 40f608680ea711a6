"""Device functions shared by the row losses: read a row of scores, gather its statistics in one sweep.

A program works on R rows at a time; every tensor below carries them first. A row's passages are its own, whose grades
its labels give (the whole row, or with in-batch negatives a block of K columns), and the others, which all count as one
grade. For the own passages the sweep keeps sums by level, for the others one of each:

    mass      Σ e, e = exp((s − s_max)/temperature)
    count     how many passages; NaN where a label strays
    logits    Σ x, x = s − s_max                       for losses that look at more than e (LOGITS)
    given     Σ T, the masses of a given target
    asked     Σ T x, and
    entropy   Σ T log T, over all levels               where KL looks at a given target (ASKED)

What is not asked for stays zero and costs nothing. What a loss makes of these sums is its epilogue: grade_wasserstein,
info_nce, listwise_kl.

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
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def float64_scalar(x: tl.tensor) -> tl.tensor:
    """A kernel's float parameter, in full. Parameters annotated tl.float64 are passed as doubles (without that Triton
    passes a Python float as float32); the interpreter hands them on as Python floats, which arithmetic with a tensor
    would round to the tensor's type."""
    return tl.full((), x, tl.float64)


@triton.jit
def list_bounds(
    offsets: tl.tensor,  # pointer to [Q + 1] int64
    row: tl.tensor,  # [R] int64
    Q: tl.tensor,
    COLUMN: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Where packed lists begin, [R] int64, and how many columns they have, [R] COLUMN."""
    begin = tl.load(offsets + row, mask=row < Q, other=0)
    return begin, (tl.load(offsets + row + 1, mask=row < Q, other=0) - begin).to(COLUMN)


@triton.jit
def load_scores(
    scores: tl.tensor,  # pointer
    mask: tl.tensor,  # pointer, or None
    at: tl.tensor,  # int64, elements of scores
    mask_at: tl.tensor,  # int64, elements of mask
    inside: tl.tensor,  # bool, what may be read
    C: tl.constexpr,
) -> tl.tensor:
    """As `at`, of the computing type C (half types are only ever loaded and stored), −inf where no passage takes
    part."""
    s = tl.load(scores + at, mask=inside, other=float("-inf")).to(C)
    if mask is not None:
        s = tl.where(tl.load(mask + mask_at, mask=inside, other=0) != 0, s, float("-inf"))
    return s


@triton.jit
def load_levels(
    labels: tl.tensor,  # pointer to integers of any width
    at: tl.tensor,  # int64
    inside: tl.tensor,  # bool
    num_levels: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """Levels, int32 as `at`, and which labels stray from 0 … num_levels−1; their level reads 0. Compared at the labels'
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
    scores: tl.tensor,  # pointer
    labels: tl.tensor,  # pointer
    mask: tl.tensor,  # pointer, or None
    target: tl.tensor,  # pointer to given masses of C, or None
    row: tl.tensor,  # [R] int64
    at_row: tl.tensor,  # [R] int64, the first own passage in scores,
    labels_at_row: tl.tensor,  # in labels,
    mask_at_row: tl.tensor,  # in mask,
    target_at_row: tl.tensor,  # and in target
    Q: tl.tensor,
    K: tl.tensor,  # own passages of the row that has most
    own: tl.tensor,  # own passages, the same for all rows or [R, 1]
    num_levels: tl.tensor,
    exponent_scale: tl.tensor,  # log2(e) / temperature, of C
    LOGITS: tl.constexpr,
    ASKED: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    G: tl.constexpr,
    V: tl.constexpr,
    LEVELS: tl.constexpr,
    GIVEN_LEVELS: tl.constexpr,  # LEVELS, or 1 where only the sum of a given target is asked for
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Of the row's own passages: maximum, [R], −inf if none takes part; mass, count, logits, [R, LEVELS], given,
    [R, GIVEN_LEVELS], float64; asked, entropy, [R] float64."""
    top, mass, count, logits, given, asked, entropy = nothing_yet(R, G, LEVELS, GIVEN_LEVELS, C)
    for start in range(0, K, U * G * V):
        k = (start + tl.arange(0, U * G * V))[None, :]
        inside = (row < Q)[:, None] & (k < own)
        s = load_scores(scores, mask, at_row[:, None] + k, mask_at_row[:, None] + k, inside, C)
        level, stray = load_levels(labels, labels_at_row[:, None] + k, inside, num_levels)
        takes_part = s != float("-inf")
        one = tl.where(takes_part, tl.where(stray, float("nan"), 1.0), 0.0)

        s, level = tl.reshape(s, (R, U, G, V)), tl.reshape(level, (R, U, G, V))
        before = top
        top, mass, count, logits = add_scores(
            s, tl.reshape(one, (R, U, G, V)), level, top, mass, count, logits, exponent_scale, LOGITS, LEVELS
        )
        if target is not None:
            t = load_target(target, target_at_row[:, None] + k, inside, takes_part)
            given, asked, entropy = add_target(
                tl.reshape(t, (R, U, G, V)), s, level, before, top, given, asked, entropy, ASKED, GIVEN_LEVELS
            )
    top, mass, count, logits, given, asked, entropy = meet(
        top, mass, count, logits, given, asked, entropy, exponent_scale, LOGITS, ASKED
    )
    return top, mass, count, logits, given, asked, entropy


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
    LOGITS: tl.constexpr,
    ASKED: tl.constexpr,
    R: tl.constexpr,
    U: tl.constexpr,
    G: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The same, with one level, of the passages outside columns row·K … row·K + K − 1."""
    top, mass, count, logits, given, asked, entropy = nothing_yet(R, G, 1, 1, C)
    for start in range(0, N, U * G * V):
        column = (start + tl.arange(0, U * G * V))[None, :]
        inside = (row < Q)[:, None] & (column < N)
        at = (row * N)[:, None] + column
        s = load_scores(scores, mask, at, (row * mask_stride)[:, None] + column, inside, C)
        # Own passages are read and then struck out: a load that skipped them could not be wide.
        own = (row * K).to(column.dtype)[:, None]
        s = tl.where((column < own) | (column >= own + K), s, float("-inf"))
        takes_part = s != float("-inf")
        one = takes_part.to(tl.float32)

        s = tl.reshape(s, (R, U, G, V))
        before = top
        top, mass, count, logits = add_scores(
            s, tl.reshape(one, (R, U, G, V)), None, top, mass, count, logits, exponent_scale, LOGITS, 1
        )
        if target is not None:
            t = load_target(target, at, inside, takes_part)
            given, asked, entropy = add_target(
                tl.reshape(t, (R, U, G, V)), s, None, before, top, given, asked, entropy, ASKED, 1
            )
    top, mass, count, logits, given, asked, entropy = meet(
        top, mass, count, logits, given, asked, entropy, exponent_scale, LOGITS, ASKED
    )
    return top, mass, count, logits, given, asked, entropy


@triton.jit
def nothing_yet(
    R: tl.constexpr, G: tl.constexpr, LEVELS: tl.constexpr, GIVEN_LEVELS: tl.constexpr, C: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The lanes' statistics before the first block: top, asked, entropy [R, G], the others [R, G, levels]."""
    mass = tl.zeros((R, G, LEVELS), C)
    count = tl.zeros((R, G, LEVELS), tl.float32)
    given = tl.zeros((R, G, GIVEN_LEVELS), C)
    asked = tl.zeros((R, G), C)
    return tl.full((R, G), float("-inf"), C), mass, count, mass, given, asked, asked


@triton.jit
def add_scores(
    s: tl.tensor,  # [R, U, G, V]
    one: tl.tensor,  # [R, U, G, V]: 1 for a passage that takes part, else 0; or NaN
    level: tl.tensor,  # [R, U, G, V], or None where LEVELS is 1
    top: tl.tensor,  # [R, G], each lane's maximum so far, to which its sums are relative
    mass: tl.tensor,  # [R, G, LEVELS]
    count: tl.tensor,
    logits: tl.tensor,
    exponent_scale: tl.tensor,
    LOGITS: tl.constexpr,
    LEVELS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """(top, mass, count, logits) with a block more."""
    higher = tl.maximum(top, tl.max(tl.max(s, axis=3), axis=1))
    e = exp_below(s, higher[:, None, :, None], exponent_scale)
    mass = mass * exp_below(top, higher, exponent_scale)[:, :, None] + sum_by_level(e, level, 0, LEVELS)
    if LOGITS:
        fallen = logits - count * rise_of_maximum(top, higher)[:, :, None]
        logits = fallen + sum_by_level(logit_below(s, higher), level, 0, LEVELS)
    count += sum_by_level(one, level, 0, LEVELS)
    return higher, mass, count, logits


@triton.jit
def add_target(
    t: tl.tensor,  # [R, U, G, V]
    s: tl.tensor,  # [R, U, G, V]
    level: tl.tensor,  # [R, U, G, V], or None where LEVELS is 1
    before: tl.tensor,  # [R, G], each lane's maximum without this block,
    top: tl.tensor,  # and with it
    given: tl.tensor,  # [R, G, LEVELS]
    asked: tl.tensor,  # [R, G]
    entropy: tl.tensor,
    ASKED: tl.constexpr,
    LEVELS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """(given, asked, entropy) with a block more."""
    if ASKED:
        fallen = asked - tl.sum(given, axis=2) * rise_of_maximum(before, top)
        asked = fallen + lane_sum(t * logit_below(s, top))
        entropy += lane_sum(t * precise_log(tl.where(t > 0, t, 1.0)))
    given += sum_by_level(t, level, 0, LEVELS)
    return given, asked, entropy


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
def precise_log(
    x: tl.tensor,  # > 0
) -> tl.tensor:
    """tl.log of a float32 is an approximation on the GPU, whose error Σ T log T would show; the interpreter has no
    libdevice, and its tl.log is NumPy's."""
    return tl.log(x) if INTERPRETED else libdevice.log(x)


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
    logits: tl.tensor,
    given: tl.tensor,
    asked: tl.tensor,  # [R, G]
    entropy: tl.tensor,
    exponent_scale: tl.tensor,
    LOGITS: tl.constexpr,
    ASKED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The lanes' statistics as the row's, sums in float64."""
    row_top = tl.max(top, axis=1)
    mass = mass * exp_below(top, row_top[:, None], exponent_scale)[:, :, None]
    rise = rise_of_maximum(top, row_top[:, None])
    if LOGITS:
        logits = logits - count * rise[:, :, None]
    if ASKED:
        asked = asked - tl.sum(given, axis=2) * rise
    return (
        row_top, spread(tl.sum(mass, axis=1)), spread(tl.sum(count, axis=1)), spread(tl.sum(logits, axis=1)),
        spread(tl.sum(given, axis=1)), tl.sum(asked, axis=1).to(tl.float64), tl.sum(entropy, axis=1).to(tl.float64),
    )  # fmt: skip


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


@triton.jit
def rise_of_maximum(
    top: tl.tensor,
    higher: tl.tensor,
) -> tl.tensor:
    """By how much logits fall when the maximum they are relative to rises; 0 where there were none yet."""
    return tl.where(top == float("-inf"), 0.0, higher - top)


@triton.jit
def logit_below(
    s: tl.tensor,  # [R, U, G, V]
    top: tl.tensor,  # [R, G]
) -> tl.tensor:
    """s − s_max; 0 where no passage takes part."""
    return tl.where(s == float("-inf"), 0.0, s - top[:, None, :, None])
