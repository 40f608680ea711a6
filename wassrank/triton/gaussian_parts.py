"""Device functions of the batch-Gaussian kernels: P and T of a row, or of a block, from the scores, the labels and the
row state. Letters are those of wassrank/gaussian/passes.py; all is float64.

A row's columns are its own, `first + row` times K and on, or with labels of the whole row all of them (then K is N),
and the others'. Places among labels are those of the row's own columns: `labels_at` below points to where column 0
would have its label, and is only followed for own columns.

Flags that shape the code:

    OWN      labels are [Q, K], and other queries' passages all have the grade in_batch
    ALL      any column may take part, not only a row's own
    WRITTEN  T is read column by column: from labels of the whole row, or a given target of the whole row
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from wassrank.gaussian.passes import Column, Row

from .rows import float64_scalar, load_levels, load_scores
from .sorted_rows import gain_of
from .targets import GIVEN

LOG2_E = tl.constexpr(math.log2(math.e))
STATE = tl.constexpr(len(Row))
TOP, INVERSE, LABEL_TOP, LABEL_INVERSE, REST, IMPOSSIBLE = (tl.constexpr(int(column)) for column in Row)
MEAN_P, MEAN_T, X, Y = (tl.constexpr(int(column)) for column in Column)
LONG_ROWS = tl.constexpr(8)
"""Rows of T at a time where its sums are done the long way."""


@triton.jit
def block(
    scores: tl.tensor,
    labels: tl.tensor,
    target: tl.tensor,
    mask: tl.tensor,
    label_temperatures: tl.tensor,
    state: tl.tensor,
    start: tl.tensor,  # the first row
    n: tl.tensor,  # [1, B], columns start_n …
    start_n: tl.tensor,
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    first: tl.tensor,
    mask_stride: tl.tensor,
    num_levels: tl.tensor,
    scale: tl.tensor,  # log2(e) / temperature
    label_temperature: tl.tensor,
    TARGET: tl.constexpr,
    OWN: tl.constexpr,
    ALL: tl.constexpr,
    WRITTEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """P and T, [R, B], and the rows' INVERSE, [R]."""
    row = start + tl.arange(0, ROWS).to(tl.int64)
    in_rows = row < Q
    inside = in_rows[:, None] & (n < N)
    begins, labels_at = own_columns(row, K, first, OWN)
    own = inside & (n >= begins[:, None]) & (n < begins[:, None] + K)
    at = (row * N)[:, None] + n
    s = wide(scores, mask, at, (row * mask_stride)[:, None] + n, inside if ALL else own)
    top, inverse = of_rows(state, row, in_rows, TOP), of_rows(state, row, in_rows, INVERSE)
    P = probability(s, top[:, None], inverse[:, None], scale)
    real = s != float("-inf")

    label_top = of_rows(state, row, in_rows, LABEL_TOP)[:, None]
    label_inverse = of_rows(state, row, in_rows, LABEL_INVERSE)[:, None]
    if WRITTEN:
        label_scale = label_scales(label_temperatures, label_temperature, row, in_rows)
        if label_temperatures is not None:
            label_scale = label_scale[:, None]
        T = gain_at(labels, target, at, inside, real, label_top, label_scale, num_levels, TARGET) * label_inverse
    else:
        T = of_rows(state, row, in_rows, REST)[:, None] + tl.zeros((ROWS, BLOCK), tl.float64)
        # Most blocks hold none of the rows' own columns, and need no exponentials for T.
        if ((first + start) * K < start_n + BLOCK) & ((first + start + ROWS) * K > start_n):
            label_scale = label_scales(label_temperatures, label_temperature, row, in_rows)
            if label_temperatures is not None:
                label_scale = label_scale[:, None]
            gain = gain_at(
                labels, target, labels_at[:, None] + n, own, real, label_top, label_scale, num_levels, TARGET
            )
            T = tl.where(own, gain * label_inverse, T)
    return P, tl.where(real & (inverse != 0)[:, None], T, 0.0), inverse


@triton.jit
def target_rows(
    scores: tl.tensor,
    mask: tl.tensor,  # one flag a passage, or None
    state: tl.tensor,
    columns: tl.tensor,
    excess: tl.tensor,
    j: tl.tensor,  # [R, 1] int64, rows
    n: tl.tensor,  # [1, B]
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    first: tl.tensor,
    OWN: tl.constexpr,
    ALL: tl.constexpr,
) -> tl.tensor:
    """E_T, [R, B], in the form of blocks, where some are not real."""
    in_rows = j < Q
    inside = in_rows & (n < N)
    begins, _ = own_columns(j, K, first, OWN)
    own = inside & (n >= begins) & (n < begins + K)
    real = wide(scores, mask, j * N + n, n, inside if ALL else own) != float("-inf")
    w = tl.where(own, tl.load(excess + n, mask=n < N, other=0), 0.0)
    T = tl.where(real, of_rows(state, j, in_rows, REST) + w, 0.0)
    mean = tl.load(columns + MEAN_T * N + n, mask=n < N, other=0)
    return tl.where(inside, centred(T, mean, of_rows(state, j, in_rows, INVERSE)), 0.0)


@triton.jit
def products_with_rows(
    scores: tl.tensor,
    mask: tl.tensor,
    state: tl.tensor,
    columns: tl.tensor,
    excess: tl.tensor,
    products: tl.tensor,
    row: tl.tensor,  # int64
    top: tl.tensor,
    inverse: tl.tensor,
    own: tl.tensor,
    rows: tl.tensor,  # Q, or 0 where this is not to be done
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    first: tl.tensor,
    mask_stride: tl.tensor,
    segments: tl.tensor,
    scale: tl.tensor,
    OWN: tl.constexpr,
    ALL: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """⟨P_i, E_T,j⟩ for every j, from T itself."""
    for start_j in range(0, rows, LONG_ROWS):
        j = start_j + tl.arange(0, LONG_ROWS).to(tl.int64)
        total = tl.zeros((LONG_ROWS, BLOCK), tl.float64)
        for start in range(0, N, BLOCK):
            n = (start + tl.arange(0, BLOCK))[None, :]
            read = n < N
            if not ALL:
                read = read & (n >= own) & (n < own + K)
            s = wide(scores, mask, row * N + n, row * mask_stride + n, read)
            P = probability(s, top, inverse, scale)
            total += P * target_rows(scores, mask, state, columns, excess, j[:, None], n, Q, N, K, first, OWN, ALL)
        tl.store(products + row * segments + j, tl.sum(total, axis=1), mask=j < Q)


@triton.jit
def own_gradient(
    columns: tl.tensor,
    P: tl.tensor,
    n: tl.tensor,
    inside: tl.tensor,
    N: tl.tensor,
) -> tl.tensor:
    """x_n + y_n (P_in − μ_n), as P."""
    mean = tl.load(columns + MEAN_P * N + n, mask=inside, other=0)
    x = tl.load(columns + X * N + n, mask=inside, other=0)
    return x + tl.load(columns + Y * N + n, mask=inside, other=0) * (P - mean)


@triton.jit
def own_columns(
    row: tl.tensor,  # int64
    K: tl.tensor,
    first: tl.tensor,
    OWN: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The first of each row's own columns, int32, and where in labels column 0 would be, int64."""
    begin = (first + row) * K if OWN else row * 0
    return begin.to(tl.int32), row * K - begin


@triton.jit
def of_rows(
    state: tl.tensor,
    row: tl.tensor,  # int64
    inside: tl.tensor,
    COLUMN: tl.constexpr,
) -> tl.tensor:
    return tl.load(state + row * STATE + COLUMN, mask=inside, other=0)


@triton.jit
def flags(
    mask: tl.tensor,  # pointer, or None
    at: tl.tensor,  # int64
    inside: tl.tensor,  # bool, what may be read
) -> tl.tensor:
    """Which passages the mask asks for."""
    return inside if mask is None else inside & (tl.load(mask + at, mask=inside, other=0) != 0)


@triton.jit
def wide(
    scores: tl.tensor,  # pointer
    mask: tl.tensor,  # pointer, or None
    at: tl.tensor,  # int64
    mask_at: tl.tensor,  # int64
    inside: tl.tensor,  # bool, what may be read
) -> tl.tensor:
    """float64 scores, −inf where no passage takes part."""
    C: tl.constexpr = tl.float64 if scores.dtype.element_ty == tl.float64 else tl.float32
    return load_scores(scores, mask, at, mask_at, inside, C).to(tl.float64)


@triton.jit
def probability(
    s: tl.tensor,
    top: tl.tensor,
    inverse: tl.tensor,
    scale: tl.tensor,  # log2(e) / temperature
) -> tl.tensor:
    """P, 0 where nothing is real and in rows that are no samples."""
    # Not one condition of the two: the interpreter cannot combine a tensor's with a scalar's.
    P = tl.where(inverse != 0, tl.exp2((s - top) * scale) * inverse, 0.0)
    return tl.where(s != float("-inf"), P, 0.0)


@triton.jit
def centred(
    x: tl.tensor,
    mean: tl.tensor,
    inverse: tl.tensor,
) -> tl.tensor:
    """x less its column's mean, 0 in rows that are no samples."""
    return tl.where(inverse != 0, x - mean, 0.0)


@triton.jit
def label_scales(
    label_temperatures: tl.tensor,  # pointer to [Q] float64, or None
    label_temperature: tl.tensor,
    row: tl.tensor,
    inside: tl.tensor,
) -> tl.tensor:
    """log2(e) / label temperature, for all rows or, where each has its own, as `row`."""
    temperature = float64_scalar(label_temperature)
    if label_temperatures is not None:
        temperature = tl.load(label_temperatures + row, mask=inside, other=1)
    return LOG2_E / temperature


@triton.jit
def gain_at(
    labels: tl.tensor,  # pointer
    target: tl.tensor,  # pointer to given masses, or None
    at: tl.tensor,  # int64, in labels or in target
    inside: tl.tensor,  # bool, what may be read
    real: tl.tensor,
    label_top: tl.tensor,
    label_scale: tl.tensor,
    num_levels: tl.tensor,
    TARGET: tl.constexpr,
) -> tl.tensor:
    """What labels ask for, up to LABEL_INVERSE; 0 where nothing is real."""
    y = None
    if TARGET != GIVEN:
        y, _ = grades(labels, at, inside, num_levels)
    return gain_of(target, at, inside, y, real, label_top, label_scale, TARGET, tl.float64)


@triton.jit
def grades(
    labels: tl.tensor,  # pointer to integers or floats of any width
    at: tl.tensor,  # int64
    inside: tl.tensor,  # bool, what may be read
    num_levels: tl.tensor,  # None for floats
) -> tuple[tl.tensor, tl.tensor]:
    """In float64, and which of them cannot be."""
    if num_levels is None:
        C: tl.constexpr = tl.float64 if labels.dtype.element_ty == tl.float64 else tl.float32
        y = tl.load(labels + at, mask=inside, other=0).to(C).to(tl.float64)
        stray = y - y != 0
    else:
        level, stray = load_levels(labels, at, inside, num_levels)
        y = level.to(tl.float64)
    return y, stray
