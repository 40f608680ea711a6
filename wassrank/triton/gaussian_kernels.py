"""The kernels of the batch-Gaussian loss: the passes of wassrank/gaussian/passes.py, one launch each.

All arithmetic is in float64: scores are widened as they are loaded. P and T are made again by each pass from the
scores, the labels and the row state, by the functions below; letters are those of passes.py. A sum over a row, or over
a column, is one program's, in one order: the same bits each run.

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

from wassrank.gaussian.passes import Column, Moment, Row, Sum

from .rows import float64_scalar, load_levels, load_scores
from .sorted_rows import gain_of
from .targets import GIVEN, SOFTMAX

LOG2_E = tl.constexpr(math.log2(math.e))
STATE = tl.constexpr(len(Row))
TOP, INVERSE, LABEL_TOP, LABEL_INVERSE, REST, IMPOSSIBLE = (tl.constexpr(int(column)) for column in Row)
SUM_P, SQUARES_P, SUM_T, SQUARES_T = (tl.constexpr(int(moment)) for moment in Moment)
SUMS = tl.constexpr(len(Sum))
SQUARES, ALONG_MEAN, APART = (tl.constexpr(int(column)) for column in Sum)
MEAN_P, MEAN_T, X, Y = (tl.constexpr(int(column)) for column in Column)
LONG_ROWS = tl.constexpr(8)
"""Rows of T at a time where its sums are done the long way."""


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
