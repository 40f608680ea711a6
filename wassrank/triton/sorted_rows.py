"""Device functions of the sorted path: read a row's own passages, whose labels are any floats, and sum up what the
losses look at.

A program has one row. Pointers come set to the row's own passages, so that a passage's place among them is its index
everywhere. Two sweeps in the order that passages lie in: maxima first, then sums relative to them, which need no
correction as a maximum rises. In both, lanes add up on their own and meet once, at the end. Other queries' passages,
all at one point, are swept as on the level path (rows.py).

A passage takes part unless its score is −inf or its mask False; then its mass and its gain are 0 and its label and
coordinate may be anything. Gains are what the labels ask for, up to one factor a row.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from wassrank.arguments import SORTED_STATE_WIDTH

from .rows import exp_below, list_bounds, load_scores, precise_log
from .targets import GIVEN, LINEAR, SOFTMAX

LOG2_E = tl.constexpr(math.log2(math.e))
STATE_WIDTH = tl.constexpr(SORTED_STATE_WIDTH)


@triton.jit
def own_bounds(
    offsets: tl.tensor,  # pointer to [Q + 1] int64 for packed lists, else None
    row: tl.tensor,  # int64
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    own_stride: tl.tensor,  # columns between one row's own passages and the next's: 0 or K
    mask_stride: tl.tensor,
    COLUMN: tl.constexpr,  # integers that count a packed list's columns
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Where the row's own passages begin in scores, in labels and in mask, int64; how many they are."""
    if offsets is None:
        own = K
        own_begin = row * own_stride
        at_row, labels_at_row, mask_at_row = row * N + own_begin, row * K, row * mask_stride + own_begin
    else:
        at_row, own = list_bounds(offsets, row, Q, COLUMN)
        labels_at_row, mask_at_row = at_row, at_row
    return at_row, labels_at_row, mask_at_row, own


@triton.jit
def sweep_maxima(
    scores: tl.tensor,  # pointer
    labels: tl.tensor,  # pointer
    mask: tl.tensor,  # pointer, or None
    coordinates: tl.tensor,  # pointer
    own: tl.tensor,  # own passages of the row
    BLOCK: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The highest score and label, the lowest and highest coordinate, of what takes part: −inf and inf where nothing
    does. And whether a label or coordinate strays, that is, is not finite."""
    top = tl.full((BLOCK,), float("-inf"), C)
    label_top, high, low = top, top, -top
    strays = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, own, BLOCK):
        k = start + tl.arange(0, BLOCK)
        inside = k < own
        s = load_scores(scores, mask, k, k, inside, C)
        takes_part = s != float("-inf")
        y = tl.load(labels + k, mask=inside, other=0)
        x = tl.load(coordinates + k, mask=inside, other=0)
        top = tl.maximum(top, s)
        label_top = tl.maximum(label_top, tl.where(takes_part, y, float("-inf")))
        low = tl.minimum(low, tl.where(takes_part, x, float("inf")))
        high = tl.maximum(high, tl.where(takes_part, x, float("-inf")))
        strays |= (takes_part & ((y - y != 0) | (x - x != 0))).to(tl.int32)
    return tl.max(top, axis=0), tl.max(label_top, axis=0), tl.min(low, axis=0), tl.max(high, axis=0), tl.max(strays, 0)


@triton.jit
def sweep_sums(
    scores: tl.tensor,  # pointer
    labels: tl.tensor,  # pointer
    mask: tl.tensor,  # pointer, or None
    target: tl.tensor,  # pointer to given masses of C, or None
    coordinates: tl.tensor,  # pointer
    own: tl.tensor,
    positive: tl.tensor,  # InfoNCE's positive's place; None: those of label `best`
    best: tl.tensor,  # of C, the own passages' highest label
    top: tl.tensor,  # of C, the row's maximum
    label_top: tl.tensor,  # of C, the row's highest label
    low: tl.tensor,  # float64, the ends of the line
    high: tl.tensor,
    others_x: tl.tensor,  # float64, where the others lie
    exponent_scale: tl.tensor,  # log2(e) / temperature, of C
    label_scale: tl.tensor,  # log2(e) / label temperature, of C
    INFO_NCE: tl.constexpr,
    KL: tl.constexpr,
    TARGET: tl.constexpr,
    OTHERS: tl.constexpr,
    BLOCK: tl.constexpr,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Of the own passages, with x = s − s_max: Σ e, Σ gain, how many positives, their Σ x, Σ gain x, Σ gain log gain,
    float64; and how many lie no higher than the others, takes part or not. What is not asked for is 0."""
    mass = tl.zeros((BLOCK,), tl.float64)
    gains, found, positives_x, asked, entropy = mass, mass, mass, mass, mass
    below = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, own, BLOCK):
        k = start + tl.arange(0, BLOCK)
        inside = k < own
        s = load_scores(scores, mask, k, k, inside, C)
        y = tl.load(labels + k, mask=inside, other=0)
        takes_part = s != float("-inf")
        mass += exp_below(s, top, exponent_scale).to(tl.float64)
        gain = gain_of(target, k, inside, y, takes_part, label_top, label_scale, TARGET, C)
        gains += gain.to(tl.float64)
        if INFO_NCE or KL:
            x = tl.where(takes_part, s - top, 0.0)
            if INFO_NCE:
                is_positive = positive_at(k, y, takes_part, positive, best)
                found += is_positive.to(tl.float64)
                positives_x += tl.where(is_positive, x, 0.0).to(tl.float64)
            if KL:
                asked += gain.to(tl.float64) * x.to(tl.float64)
                entropy += (gain * precise_log(tl.where(gain > 0, gain, 1.0))).to(tl.float64)
        if OTHERS:
            at = on_line(tl.load(coordinates + k, mask=inside, other=0), low, high)
            below += (inside & (at <= others_x)).to(tl.int32)
    return (
        tl.sum(mass, axis=0), tl.sum(gains, axis=0), tl.sum(found, axis=0), tl.sum(positives_x, axis=0),
        tl.sum(asked, axis=0), tl.sum(entropy, axis=0), tl.sum(below, axis=0),
    )  # fmt: skip


@triton.jit
def write_constants(
    scores: tl.tensor,  # pointer
    labels: tl.tensor,  # pointer
    mask: tl.tensor,  # pointer, or None
    target: tl.tensor,  # pointer to given masses of C, or None
    constant: tl.tensor,  # pointer to what is written, of C
    own: tl.tensor,
    positive: tl.tensor,  # as in sweep_sums
    best: tl.tensor,
    label_top: tl.tensor,
    label_scale: tl.tensor,
    positives_pull: tl.tensor,  # float64, of each positive
    gain_pull: tl.tensor,  # float64, times the gain
    INFO_NCE: tl.constexpr,
    KL: tl.constexpr,
    TARGET: tl.constexpr,
    BLOCK: tl.constexpr,
    C: tl.constexpr,
) -> None:
    """b of each own passage, 0 for what takes no part."""
    for start in range(0, own, BLOCK):
        k = start + tl.arange(0, BLOCK)
        inside = k < own
        takes_part = load_scores(scores, mask, k, k, inside, C) != float("-inf")
        y = tl.load(labels + k, mask=inside, other=0)
        b = tl.zeros((BLOCK,), tl.float64)
        if INFO_NCE:
            b = tl.where(positive_at(k, y, takes_part, positive, best), b - positives_pull, b)
        if KL:
            gain = gain_of(target, k, inside, y, takes_part, label_top, label_scale, TARGET, C)
            b = tl.where(takes_part, b - gain_pull * gain.to(tl.float64), b)
        tl.store(constant + k, b.to(C), mask=inside)


@triton.jit
def positive_at(
    place: tl.tensor,  # [B]
    y: tl.tensor,  # [B] labels
    takes_part: tl.tensor,  # [B] bool
    positive: tl.tensor,  # int64, or None
    best: tl.tensor,
) -> tl.tensor:
    """Which passages are InfoNCE's positives, [B] bool."""
    return takes_part & (y == best if positive is None else place == positive)


@triton.jit
def gain_of(
    target: tl.tensor,  # pointer to given masses of C, or None
    place: tl.tensor,  # [B]
    inside: tl.tensor,  # [B] bool, what may be read
    y: tl.tensor,  # [B] labels, of C
    takes_part: tl.tensor,  # [B] bool
    label_top: tl.tensor,  # of C; relative to it no label temperature underflows all gains
    label_scale: tl.tensor,  # log2(e) / label temperature, of C
    TARGET: tl.constexpr,
    C: tl.constexpr,
) -> tl.tensor:
    """[B] of C."""
    if TARGET == SOFTMAX:
        gain = tl.exp2(tl.minimum(y - label_top, 0.0) * label_scale)
    elif TARGET == GIVEN:
        gain = tl.load(target + place, mask=inside, other=0)
    else:
        gain = plain_gain(y.to(tl.float64), TARGET).to(C)
    return tl.where(takes_part, gain, 0.0)


@triton.jit
def plain_gain(
    y: tl.tensor,  # float64
    TARGET: tl.constexpr,
) -> tl.tensor:
    """What a label is worth by itself; less than 0 is worth 0."""
    return tl.maximum(y if TARGET == LINEAR else tl.exp2(y) - 1, 0.0)


@triton.jit
def on_line(
    x: tl.tensor,  # coordinates, in rising order or not
    low: tl.tensor,  # float64, of what takes part
    high: tl.tensor,
) -> tl.tensor:
    """In float64, between the ends of what takes part, NaN at the upper end: the order of coordinates stays what it is,
    and what takes no part, whose mass is 0, then changes nothing wherever it lay."""
    x = x.to(tl.float64)
    return tl.minimum(tl.maximum(tl.where(x == x, x, high), low), high)


@triton.jit
def only(
    x: tl.tensor,  # of one element
) -> tl.tensor:
    """It as a scalar."""
    return tl.sum(tl.reshape(x, (1,)), axis=0)
