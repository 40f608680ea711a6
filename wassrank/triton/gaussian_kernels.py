"""The kernels of the batch-Gaussian loss: the passes of wassrank/gaussian/passes.py, one launch each.

All arithmetic is in float64: scores are widened as they are loaded. P and T are made again by each pass from the
scores, the labels and the row state, by the functions of gaussian_parts.py, which also says what OWN, ALL and WRITTEN
are. A sum over a row, or over a column, is one program's, in one order: the same bits each run.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wassrank.gaussian.passes import Moment, Sum

from .gaussian_parts import (
    IMPOSSIBLE,
    INVERSE,
    LABEL_INVERSE,
    LABEL_TOP,
    LONG_ROWS,
    MEAN_P,
    MEAN_T,
    REST,
    STATE,
    TOP,
    block,
    centred,
    flags,
    gain_at,
    grades,
    label_scales,
    of_rows,
    own_columns,
    own_gradient,
    probability,
    products_with_rows,
    target_rows,
    wide,
)
from .rows import float64_scalar
from .sorted_rows import gain_of
from .targets import GIVEN, SOFTMAX

SUM_P, SQUARES_P, SUM_T, SQUARES_T = (tl.constexpr(int(moment)) for moment in Moment)
SUMS = tl.constexpr(len(Sum))
SQUARES, ALONG_MEAN, APART = (tl.constexpr(int(column)) for column in Sum)


@triton.jit(do_not_specialize=["first", "num_levels"])
def gaussian_rows_kernel(
    scores: tl.tensor,  # [Q, N]
    labels: tl.tensor,  # [Q, K] or [Q, N]
    target: tl.tensor,  # float64, as labels or as scores, for TARGET given; else None
    mask: tl.tensor,  # element (row, n) at row · mask_stride + n; or None
    label_temperatures: tl.tensor,  # [Q] float64, or None
    state: tl.tensor,  # [Q, 6]
    excess: tl.tensor,  # [Q, K], or None
    N: tl.tensor,
    K: tl.tensor,
    first: tl.tensor,
    mask_stride: tl.tensor,
    num_levels: tl.tensor,  # None for float labels
    in_batch: tl.float64,
    exponent_scale: tl.float64,  # log2(e) / temperature
    label_temperature: tl.float64,
    TARGET: tl.constexpr,
    OWN: tl.constexpr,
    ALL: tl.constexpr,
    WRITTEN: tl.constexpr,
    BLOCK: tl.constexpr,
    OWN_BLOCK: tl.constexpr,  # of own columns at a time
) -> None:
    """A row a program. Maxima first, then sums relative to them."""
    row = tl.program_id(0).to(tl.int64)
    at, mask_at = row * N, row * mask_stride
    own, labels_at = own_columns(row, K, first, OWN)
    begin, end = own, own + K
    if ALL:
        begin, end = own * 0, own * 0 + N

    tops = tl.full((BLOCK,), float("-inf"), tl.float64)
    impossible = tl.zeros((BLOCK,), tl.int32)
    others = impossible
    for start in range(begin, end, BLOCK):
        n = start + tl.arange(0, BLOCK)
        asked = flags(mask, mask_at + n, n < end)
        s = wide(scores, None, at + n, mask_at + n, asked)
        real = s != float("-inf")
        tops = tl.maximum(tops, s)
        impossible |= (asked & (s == float("-inf"))).to(tl.int32)
        if OWN:
            others += (real & ((n < own) | (n >= own + K))).to(tl.int32)
    top = tl.max(tops, axis=0)
    top = tl.where(top == float("-inf"), 0.0, top)
    others_count = tl.sum(others, axis=0)

    label_tops = tl.full((OWN_BLOCK,), float("-inf"), tl.float64)
    strays = tl.zeros((OWN_BLOCK,), tl.int32)
    for start in range(own, own + K, OWN_BLOCK):
        n = start + tl.arange(0, OWN_BLOCK)
        inside = n < own + K
        real = wide(scores, mask, at + n, mask_at + n, inside) != float("-inf")
        y, stray = grades(labels, labels_at + n, inside, num_levels)
        label_tops = tl.maximum(label_tops, tl.where(real, y, float("-inf")))
        strays |= (real & stray).to(tl.int32)
    others_grade = float64_scalar(in_batch)
    label_top = tl.full((), 0.0, tl.float64)
    if TARGET == SOFTMAX:
        label_top = tl.max(label_tops, axis=0)
        label_top = tl.maximum(label_top, tl.where(others_count > 0, others_grade, float("-inf")))
        label_top = tl.where(label_top == float("-inf"), 0.0, label_top)

    label_scale = label_scales(label_temperatures, label_temperature, row, True)
    scale = float64_scalar(exponent_scale)
    totals = tl.zeros((BLOCK,), tl.float64)
    gains = tl.zeros((BLOCK if WRITTEN else OWN_BLOCK,), tl.float64)
    for start in range(begin, end, BLOCK):
        n = start + tl.arange(0, BLOCK)
        inside = n < end
        s = wide(scores, mask, at + n, mask_at + n, inside)
        real = s != float("-inf")
        totals += tl.where(real, tl.exp2((s - top) * scale), 0.0)
        if WRITTEN:
            gains += gain_at(labels, target, at + n, inside, real, label_top, label_scale, num_levels, TARGET)
    others_gain = tl.full((), 0.0, tl.float64)
    if not WRITTEN:
        for start in range(own, own + K, OWN_BLOCK):
            n = start + tl.arange(0, OWN_BLOCK)
            inside = n < own + K
            real = wide(scores, mask, at + n, mask_at + n, inside) != float("-inf")
            gains += gain_at(labels, target, labels_at + n, inside, real, label_top, label_scale, num_levels, TARGET)
        if ALL and TARGET != GIVEN:
            others_gain = gain_of(
                None, None, None, others_grade, others_count > 0, label_top, label_scale, TARGET, tl.float64
            )
    total = tl.sum(totals, axis=0)
    mass = tl.sum(gains, axis=0) + others_count * others_gain
    sample = (total != 0) & (mass != 0)
    label_inverse = tl.where(sample, 1 / mass, 0.0)
    rest = others_gain * label_inverse
    inverse = tl.where(tl.max(strays, axis=0) > 0, float("nan"), tl.where(sample, 1 / total, 0.0))
    state += row * STATE
    tl.store(state + TOP, top)
    tl.store(state + INVERSE, inverse)
    tl.store(state + LABEL_TOP, label_top)
    tl.store(state + LABEL_INVERSE, label_inverse)
    tl.store(state + REST, rest)
    tl.store(state + IMPOSSIBLE, tl.max(impossible, axis=0).to(tl.float64))

    if excess is not None:
        for start in range(own, own + K, OWN_BLOCK):
            n = start + tl.arange(0, OWN_BLOCK)
            inside = n < own + K
            asked = flags(mask, mask_at + n, inside)
            real = wide(scores, None, at + n, mask_at + n, asked) != float("-inf")
            gain = gain_at(labels, target, labels_at + n, inside, real, label_top, label_scale, num_levels, TARGET)
            tl.store(excess + labels_at + n, tl.where(asked, gain * label_inverse - rest, 0.0), mask=inside)


@triton.jit(do_not_specialize=["Q", "first", "num_levels"])
def gaussian_moments_kernel(
    scores: tl.tensor,  # as above
    labels: tl.tensor,
    target: tl.tensor,
    mask: tl.tensor,
    label_temperatures: tl.tensor,
    state: tl.tensor,
    moments: tl.tensor,  # [4, N]
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    first: tl.tensor,
    mask_stride: tl.tensor,
    num_levels: tl.tensor,
    exponent_scale: tl.float64,
    label_temperature: tl.float64,
    TARGET: tl.constexpr,
    OWN: tl.constexpr,
    ALL: tl.constexpr,
    WRITTEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A block of columns a program."""
    start_n = tl.program_id(0) * BLOCK
    n = (start_n + tl.arange(0, BLOCK))[None, :]
    scale = float64_scalar(exponent_scale)
    rows_begin, rows_end = Q * 0, Q
    if not ALL:  # only those whose own these columns are: in the others P and T are 0
        rows_begin = tl.maximum(start_n // K - first, 0)
        rows_end = tl.minimum(tl.minimum(start_n + BLOCK, N) // K + 1 - first, Q)

    ones = tl.zeros((ROWS,), tl.int32)
    for start in range(0, Q, ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        ones += (of_rows(state, row, row < Q, INVERSE) != 0).to(tl.int32)
    samples = tl.sum(ones, axis=0).to(tl.float64)

    sums_P = tl.zeros((ROWS, BLOCK), tl.float64)
    sums_T = sums_P
    for start in range(rows_begin, rows_end, ROWS):
        P, T, _ = block(
            scores, labels, target, mask, label_temperatures, state, start, n, start_n, Q, N, K, first, mask_stride,
            num_levels, scale, label_temperature, TARGET, OWN, ALL, WRITTEN, ROWS, BLOCK,
        )  # fmt: skip
        sums_P += P
        sums_T += T
    sum_P = tl.sum(sums_P, axis=0)[None, :]
    sum_T = tl.sum(sums_T, axis=0)[None, :]
    mean_P, mean_T = sum_P / tl.maximum(samples, 1.0), sum_T / tl.maximum(samples, 1.0)

    squares_P = tl.zeros((ROWS, BLOCK), tl.float64)
    squares_T = squares_P
    seen = tl.zeros((ROWS,), tl.int32)
    for start in range(rows_begin, rows_end, ROWS):
        P, T, inverse = block(
            scores, labels, target, mask, label_temperatures, state, start, n, start_n, Q, N, K, first, mask_stride,
            num_levels, scale, label_temperature, TARGET, OWN, ALL, WRITTEN, ROWS, BLOCK,
        )  # fmt: skip
        E_P, E_T = centred(P, mean_P, inverse[:, None]), centred(T, mean_T, inverse[:, None])
        squares_P += E_P * E_P
        squares_T += E_T * E_T
        seen += (inverse != 0).to(tl.int32)
    square_P = tl.sum(squares_P, axis=0)[None, :]
    square_T = tl.sum(squares_T, axis=0)[None, :]
    if not ALL:
        unseen = samples - tl.sum(seen, axis=0).to(tl.float64)
        square_P += unseen * mean_P * mean_P
        square_T += unseen * mean_T * mean_T
    inside = n < N
    along = moments + n
    tl.store(along + SUM_P * N, sum_P, mask=inside)
    tl.store(along + SQUARES_P * N, square_P, mask=inside)
    tl.store(along + SUM_T * N, sum_T, mask=inside)
    tl.store(along + SQUARES_T * N, square_T, mask=inside)


@triton.jit(do_not_specialize=["Q", "first", "num_levels", "column_begin", "column_end"])
def gaussian_tiles_kernel(
    scores: tl.tensor,  # as above
    labels: tl.tensor,
    target: tl.tensor,
    mask: tl.tensor,
    label_temperatures: tl.tensor,
    state: tl.tensor,
    columns: tl.tensor,  # [2 or more, N]
    tile_P: tl.tensor,  # [Q, column_end − column_begin]
    tile_E_T: tl.tensor,  # likewise
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    first: tl.tensor,
    mask_stride: tl.tensor,
    num_levels: tl.tensor,
    column_begin: tl.tensor,
    column_end: tl.tensor,
    exponent_scale: tl.float64,
    label_temperature: tl.float64,
    TARGET: tl.constexpr,
    OWN: tl.constexpr,
    ALL: tl.constexpr,
    WRITTEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    start = tl.program_id(0) * ROWS
    start_n = column_begin + tl.program_id(1) * BLOCK
    row = start + tl.arange(0, ROWS).to(tl.int64)
    n = (start_n + tl.arange(0, BLOCK))[None, :]
    P, T, inverse = block(
        scores, labels, target, mask, label_temperatures, state, start, n, start_n, Q, N, K, first, mask_stride,
        num_levels, float64_scalar(exponent_scale), label_temperature, TARGET, OWN, ALL, WRITTEN, ROWS, BLOCK,
    )  # fmt: skip
    mean_T = tl.load(columns + MEAN_T * N + n, mask=n < column_end, other=0)
    inside = (row < Q)[:, None] & (n < column_end)
    at = (row * (column_end - column_begin))[:, None] + (n - column_begin)
    tl.store(tile_P + at, P, mask=inside)
    tl.store(tile_E_T + at, centred(T, mean_T, inverse[:, None]), mask=inside)


@triton.jit(do_not_specialize=["Q", "first", "segments"])
def gaussian_products_kernel(
    scores: tl.tensor,
    mask: tl.tensor,
    state: tl.tensor,
    columns: tl.tensor,  # [2 or more, N]
    excess: tl.tensor,  # [N], or None
    flag: tl.tensor,  # [] bool, or None
    sums: tl.tensor,  # [Q, 3]
    products: tl.tensor,  # [Q, segments], or None
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    first: tl.tensor,
    mask_stride: tl.tensor,
    segments: tl.tensor,
    width: tl.tensor,  # columns of a segment: K, or any where no products are asked for
    exponent_scale: tl.float64,
    OWN: tl.constexpr,
    ALL: tl.constexpr,
    SEGMENTS: tl.constexpr,  # read at a time
    BLOCK: tl.constexpr,
) -> None:
    """A row a program. Columns are read as [SEGMENTS, BLOCK], so that R's sums are sums over one axis."""
    row = tl.program_id(0).to(tl.int64)
    scale = float64_scalar(exponent_scale)
    top, inverse = tl.load(state + row * STATE + TOP), tl.load(state + row * STATE + INVERSE)
    own, _ = own_columns(row, K, first, OWN)
    written = segments
    if flag is not None:
        written = tl.where(tl.load(flag) != 0, 0, segments)
    squares = tl.zeros((SEGMENTS, BLOCK), tl.float64)
    along_mean, apart = squares, squares
    for start_j in range(0, segments, SEGMENTS):
        j = (start_j + tl.arange(0, SEGMENTS))[:, None]
        R = tl.zeros((SEGMENTS, BLOCK), tl.float64)
        for start_k in range(0, width, BLOCK):
            k = (start_k + tl.arange(0, BLOCK))[None, :]
            n = j * width + k
            inside = (j < segments) & (k < width) & (n < N)
            read = inside
            if not ALL:
                read = inside & (n >= own) & (n < own + K)
            s = wide(scores, mask, row * N + n, row * mask_stride + n, read)
            P = probability(s, top, inverse, scale)
            mean_P = tl.load(columns + MEAN_P * N + n, mask=inside, other=0)
            mean_T = tl.load(columns + MEAN_T * N + n, mask=inside, other=0)
            E = centred(P, mean_P, inverse)
            squares += E * E
            along_mean += E * mean_P
            apart += P * (mean_P - mean_T)
            if excess is not None:
                R += P * tl.load(excess + n, mask=inside, other=0)
        if products is not None:
            j = start_j + tl.arange(0, SEGMENTS)
            tl.store(products + row * segments + j, tl.sum(R, axis=1), mask=j < written)
    tl.store(sums + row * SUMS + SQUARES, tl.sum(squares))
    tl.store(sums + row * SUMS + ALONG_MEAN, tl.sum(along_mean))
    tl.store(sums + row * SUMS + APART, tl.sum(apart))
    if flag is not None:
        products_with_rows(
            scores, mask, state, columns, excess, products, row, top, inverse, own, tl.where(tl.load(flag) != 0, Q, 0),
            Q, N, K, first, mask_stride, segments, scale, OWN, ALL, max(1, SEGMENTS * BLOCK // LONG_ROWS),
        )  # fmt: skip


@triton.jit(do_not_specialize=["first"])
def gaussian_along_kernel(
    scores: tl.tensor,
    mask: tl.tensor,
    state: tl.tensor,
    columns: tl.tensor,  # [4, N]
    along: tl.tensor,  # [Q]
    N: tl.tensor,
    K: tl.tensor,
    first: tl.tensor,
    mask_stride: tl.tensor,
    exponent_scale: tl.float64,
    OWN: tl.constexpr,
    ALL: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A row a program."""
    row = tl.program_id(0).to(tl.int64)
    scale = float64_scalar(exponent_scale)
    top, inverse = tl.load(state + row * STATE + TOP), tl.load(state + row * STATE + INVERSE)
    own, _ = own_columns(row, K, first, OWN)
    begin, end = own, own + K
    if ALL:
        begin, end = own * 0, own * 0 + N
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(begin, end, BLOCK):
        n = start + tl.arange(0, BLOCK)
        inside = n < end
        P = probability(wide(scores, mask, row * N + n, row * mask_stride + n, inside), top, inverse, scale)
        total += P * own_gradient(columns, P, n, inside, N)
    tl.store(along + row, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["Q", "first", "queries", "column_begin", "column_end"])
def gaussian_gradient_kernel(
    scores: tl.tensor,
    mask: tl.tensor,
    state: tl.tensor,
    columns: tl.tensor,  # [4, N]
    along: tl.tensor,  # [Q]
    scale: tl.tensor,  # [] float64
    turned: tl.tensor,  # [Q, column_end − column_begin]; or None
    W: tl.tensor,  # [Q, queries], and in the form of blocks what follows; or None
    everywhere: tl.tensor,  # [Q]
    excess: tl.tensor,  # [N]
    flag: tl.tensor,  # [] bool, or None
    gradient: tl.tensor,  # [Q, N]
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    first: tl.tensor,
    mask_stride: tl.tensor,
    queries: tl.tensor,
    column_begin: tl.tensor,
    column_end: tl.tensor,
    exponent_scale: tl.float64,
    OWN: tl.constexpr,
    ALL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    n = (column_begin + tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    in_rows = row < Q
    inside = in_rows[:, None] & (n < column_end)
    own, _ = own_columns(row, K, first, OWN)
    read = inside
    if not ALL:
        read = inside & (n >= own[:, None]) & (n < own[:, None] + K)
    at = (row * N)[:, None] + n
    s = wide(scores, mask, at, (row * mask_stride)[:, None] + n, read)
    top, inverse = of_rows(state, row, in_rows, TOP), of_rows(state, row, in_rows, INVERSE)
    P = probability(s, top[:, None], inverse[:, None], float64_scalar(exponent_scale))
    G = own_gradient(columns, P, n, n < column_end, N) - tl.load(along + row, mask=in_rows, other=0)[:, None]
    if turned is not None:
        at_turned = (row * (column_end - column_begin))[:, None] + (n - column_begin)
        G -= tl.load(turned + at_turned, mask=inside, other=0)
    if W is not None:
        W_row = W + (row * queries)[:, None]
        the_long_way = False
        if flag is not None:
            the_long_way = tl.load(flag) != 0
        if the_long_way:
            for j in range(Q):
                E_T = target_rows(
                    scores, mask, state, columns, excess, j + tl.zeros((1, 1), tl.int64), n, Q, N, K, first, OWN, ALL
                )
                G -= tl.load(W_row + j, mask=in_rows[:, None], other=0) * E_T
        else:
            # Where n is real in no row, P is 0 and all this is multiplied by it.
            w = tl.load(excess + n, mask=n < column_end, other=0)
            G -= tl.load(everywhere + row, mask=in_rows, other=0)[:, None]
            G -= tl.load(W_row + n // K, mask=inside, other=0) * w
    result = tl.load(scale) * tl.where(P != 0, P * G, 0.0)
    if gradient.dtype.element_ty != tl.float64:  # half types by way of float32, as everywhere
        result = result.to(tl.float32)
    tl.store(gradient + at, result.to(gradient.dtype.element_ty), mask=inside)
