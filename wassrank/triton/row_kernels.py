"""The kernels that every row loss shares, with their launchers: rows' losses to one, and scores to their gradient.

The forward leaves for each row of scores a weighted loss, a weight, and a state as described in
wassrank/ops/level_losses.py or sorted_losses.py. The rest does not depend on which losses they were.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from wassrank import arguments
from wassrank.arguments import SORTED_STATE_WIDTH, BackwardArguments, SortedBackwardArguments
from wassrank.codes import EXCLUDED, Reduction
from wassrank.reference.rows import compute_dtype
from wassrank.tuning import TritonTuning, capability, triton_tuning

from .launch import Launch, backward_tile, ceil_div, packed_backward_tile
from .rows import float64_scalar, list_bounds, load_levels, load_scores, load_target

EXTRA = tl.constexpr(arguments.EXTRA)
SORTED_WIDTH = tl.constexpr(SORTED_STATE_WIDTH)


@triton.jit(do_not_specialize=["Q"])
def reduce_kernel(
    row_loss: tl.tensor,  # [Q] of C
    row_weight: tl.tensor,  # [Q] of C for the mean, None for the sum
    loss: tl.tensor,  # [] of C
    scale: tl.tensor,  # [] of C
    Q: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program, so that rows are added in one order whatever the GPU, in float64."""
    losses = tl.zeros((BLOCK,), tl.float64)
    weights = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, Q, BLOCK):
        row = start + tl.arange(0, BLOCK)
        losses += tl.load(row_loss + row, mask=row < Q, other=0).to(tl.float64)
        if row_weight is not None:
            weights += tl.load(row_weight + row, mask=row < Q, other=0).to(tl.float64)
    factor = tl.full((), 1.0, tl.float64)
    if row_weight is not None:
        weight = tl.sum(weights, axis=0)
        factor = 1.0 / tl.where(weight == 0, 1.0, weight)
    tl.store(scale, factor.to(scale.dtype.element_ty))
    tl.store(loss, (tl.sum(losses, axis=0) * factor).to(loss.dtype.element_ty))


def reduced_outputs(
    scores: Tensor,
    Q: int,
    reduction: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """loss, [] or [Q], scale, [], and what the forward's rows are to write: row_loss, [Q], the loss itself where none
    are added up, and row_weight, [Q], where one is asked for. Of the computing dtype."""
    dtype = compute_dtype(scores.dtype)
    if reduction == Reduction.none:
        loss = scores.new_empty((Q,), dtype=dtype)
        return loss, scores.new_ones((), dtype=dtype), loss, None
    loss, scale = scores.new_empty((), dtype=dtype), scores.new_empty((), dtype=dtype)
    row_loss, row_weight = scores.new_empty((2, Q), dtype=dtype).unbind()
    return loss, scale, row_loss, None if reduction == Reduction.sum else row_weight


def plan_reduction(
    row_loss: Tensor,  # [Q] of C
    row_weight: Tensor | None,  # [Q] of C; None for a sum
    loss: Tensor,  # []
    scale: Tensor,  # []
    tuning: TritonTuning,
) -> Launch:
    return Launch(
        reduce_kernel,
        grid=(1,),
        arguments={
            "row_loss": row_loss,
            "row_weight": row_weight,
            "loss": loss,
            "scale": scale,
            "Q": row_loss.numel(),
            "BLOCK": tuning.reduce_block,
        },
        num_warps=tuning.reduce_warps,
    )


@triton.jit(do_not_specialize=["Q", "in_batch", "num_levels"])
def backward_kernel(
    grad_loss: tl.tensor,  # [] or [Q] of C
    scores: tl.tensor,  # [Q, N]; packed [T]
    labels: tl.tensor,  # [Q, K] integers, packed [T]; None on the sorted path
    coefficient: tl.tensor,  # [Q, K] of C, packed [T]: the sorted path's c of each labelled passage; else None
    constant: tl.tensor,  # and its b; None where all are 0
    target: tl.tensor,  # as in forward_kernel, where KL looked at a given one; or None
    mask: tl.tensor,  # as in forward_kernel, or None
    positives: tl.tensor,  # [Q] int64, where InfoNCE looked at them; or None
    offsets: tl.tensor,  # [Q + 1] int64 for packed lists, else None
    state: tl.tensor,  # [Q, width] of C
    scale: tl.tensor,  # [] of C
    grad_scores: tl.tensor,  # as scores
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    mask_stride: tl.tensor,
    target_stride: tl.tensor,
    in_batch: tl.tensor,
    num_levels: tl.tensor,
    exponent_scale: tl.float64,  # log2(e) / temperature
    GRAD_PER_ROW: tl.constexpr,
    ALL_OWN: tl.constexpr,  # K == N: labels grade the whole row
    OTHERS: tl.constexpr,  # whether other queries' passages take part
    TARGET_COVERS_ROW: tl.constexpr,  # target is [Q, N]
    AFFINE: tl.constexpr,  # the state's form
    COLUMN: tl.constexpr,  # integers that count a packed list's columns
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """grad · scale · (c · exp((s − s_max)/temperature) + b + f · T), the same for every loss that keeps such a state.

    A program has a block of columns of its rows. Packed lists it goes through to their ends: how many blocks the
    longest has is not known where programs are counted, and programs for what may be, the total, would be as many for
    each list, nearly all idle.
    """
    C: tl.constexpr = state.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    scaled = float64_scalar(exponent_scale).to(C)
    if offsets is None:
        column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
        backward_block(
            grad_loss, scores, labels, coefficient, constant, target, mask, positives, state, scale, grad_scores,
            row, column, row * N, row * K, row * mask_stride, row * target_stride,
            Q, N, K, in_batch, num_levels, scaled, GRAD_PER_ROW, ALL_OWN, OTHERS, TARGET_COVERS_ROW, AFFINE,
        )  # fmt: skip
    else:
        begin, length = list_bounds(offsets, row, Q, COLUMN)
        for start in range(0, tl.max(length, axis=0), BLOCK):
            column = (start + tl.arange(0, BLOCK))[None, :]
            backward_block(
                grad_loss, scores, labels, coefficient, constant, target, mask, positives, state, scale, grad_scores,
                row, column, begin, begin, begin, begin,
                Q, length[:, None], K, in_batch, num_levels, scaled, GRAD_PER_ROW, True, False, True, AFFINE,
            )  # fmt: skip


@triton.jit
def backward_block(
    grad_loss: tl.tensor,
    scores: tl.tensor,
    labels: tl.tensor,
    coefficient: tl.tensor,
    constant: tl.tensor,
    target: tl.tensor,
    mask: tl.tensor,
    positives: tl.tensor,
    state: tl.tensor,
    scale: tl.tensor,
    grad_scores: tl.tensor,
    row: tl.tensor,  # [R] int64
    column: tl.tensor,  # [1, B]
    at_row: tl.tensor,  # [R] int64, where the row begins in scores,
    labels_at_row: tl.tensor,  # in labels, coefficient and constant,
    mask_at_row: tl.tensor,  # in mask,
    target_at_row: tl.tensor,  # and in target
    Q: tl.tensor,
    N: tl.tensor,  # columns, the same for all rows or [R, 1]
    K: tl.tensor,
    in_batch: tl.tensor,
    num_levels: tl.tensor,
    exponent_scale: tl.tensor,  # of C
    GRAD_PER_ROW: tl.constexpr,
    ALL_OWN: tl.constexpr,
    OTHERS: tl.constexpr,
    TARGET_COVERS_ROW: tl.constexpr,
    AFFINE: tl.constexpr,
) -> None:
    C: tl.constexpr = state.dtype.element_ty
    in_rows = row < Q
    inside = in_rows[:, None] & (column < N)
    if ALL_OWN:
        k = column
        own = inside
    else:
        k = column - (row * K).to(column.dtype)[:, None]
        own = inside & (k >= 0) & (k < K)
    at = at_row[:, None] + column
    read = inside if ALL_OWN or OTHERS else own
    if coefficient is not None and OTHERS:
        # Where the others have no part in the row, only blocks with own passages are read: a whole block or nothing, or
        # the load could not be wide.
        read = inside & (others_matter(state, row, in_rows) | (tl.max(own.to(tl.int32), axis=1) > 0))[:, None]
    s = load_scores(scores, mask, at, mask_at_row[:, None] + column, read, C)
    takes_part = s != float("-inf")

    if coefficient is None:
        c, b, f, top = by_level(
            labels, positives, state, row, in_rows, k, own, labels_at_row, in_batch, num_levels, OTHERS, AFFINE
        )
    else:
        c, b, f, top = by_passage(coefficient, constant, state, row, in_rows, k, own, labels_at_row, OTHERS)
    upstream = tl.load(scale)
    if GRAD_PER_ROW:
        upstream = upstream * tl.load(grad_loss + row, mask=in_rows, other=0)[:, None]
    else:
        upstream = upstream * tl.load(grad_loss)
    if AFFINE and target is not None:
        if TARGET_COVERS_ROW:
            t = load_target(target, target_at_row[:, None] + column, inside, takes_part)
        else:
            t = load_target(target, target_at_row[:, None] + k, own, takes_part)
        b += f * t
    gradient = score_gradient(s, takes_part, c, b, top, upstream, exponent_scale, AFFINE)
    tl.store(grad_scores + at, gradient.to(grad_scores.dtype.element_ty), mask=inside)


@triton.jit
def score_gradient(
    s: tl.tensor,  # [R, B]
    takes_part: tl.tensor,  # [R, B] bool
    c: tl.tensor,  # [R, B]
    b: tl.tensor,  # [R, B], f · T added
    top: tl.tensor,  # [R]
    upstream: tl.tensor,  # a scalar or [R, 1]
    exponent_scale: tl.tensor,  # of C
    AFFINE: tl.constexpr,
) -> tl.tensor:
    """[R, B]"""
    e = tl.exp2((s - top[:, None]) * exponent_scale)
    if AFFINE:
        # c is 0 all along an empty row; e, relative to no maximum there, may be infinite.
        gradient = tl.where(takes_part, upstream * (tl.where(c != 0, c * e, 0.0) + b), 0.0)
    else:
        gradient = tl.where(takes_part & (c != 0), upstream * c * e, 0.0)
    return gradient


@triton.jit
def by_level(
    labels: tl.tensor,
    positives: tl.tensor,
    state: tl.tensor,
    row: tl.tensor,  # [R] int64
    in_rows: tl.tensor,  # [R] bool
    k: tl.tensor,  # [R, B] or [1, B], places among the own passages
    own: tl.tensor,  # [R, B] bool, which are any
    labels_at_row: tl.tensor,  # [R] int64
    in_batch: tl.tensor,
    num_levels: tl.tensor,
    OTHERS: tl.constexpr,
    AFFINE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """c and b, [R, B], f, [R, 1], and the maximum, [R], from the state of wassrank/ops/level_losses.py. b and f are 0
    unless AFFINE.

    Coefficients are fetched by a passage's level from the row's state, a line or two of the first-level cache: one
    instruction a score, where selecting among the levels would cost two a level."""
    if AFFINE:
        at_state = row * (2 * num_levels + EXTRA)
        at_extra = at_state + 2 * num_levels
        at_top = at_extra + EXTRA - 1
    else:
        at_state = row * (num_levels + 1)
        at_top = at_state + num_levels
    # A label that strays reads level 0: its row's coefficients are all NaN.
    level, _ = load_levels(labels, labels_at_row[:, None] + k, own, num_levels)
    c = tl.load(state + at_state[:, None] + level, mask=own, other=0)
    if OTHERS:
        c = tl.where(own, c, tl.load(state + at_state + in_batch, mask=in_rows, other=0)[:, None])
    top = tl.load(state + at_top, mask=in_rows, other=0)
    if AFFINE:
        b = tl.load(state + at_state[:, None] + num_levels + level, mask=own, other=0)
        if OTHERS:
            b = tl.where(own, b, tl.load(state + at_extra, mask=in_rows, other=0)[:, None])
        if positives is not None:
            named = own & (k == tl.load(positives + row, mask=in_rows, other=-1)[:, None])
            b = tl.where(named, tl.load(state + at_extra + 1, mask=in_rows, other=0)[:, None], b)
        f = tl.load(state + at_extra + 2, mask=in_rows, other=0)[:, None]
    else:
        b = c * 0
        f = b
    return c, b, f, top


@triton.jit
def by_passage(
    coefficient: tl.tensor,
    constant: tl.tensor,
    state: tl.tensor,
    row: tl.tensor,  # [R] int64
    in_rows: tl.tensor,  # [R] bool
    k: tl.tensor,  # [R, B] or [1, B], places among the own passages
    own: tl.tensor,  # [R, B] bool, which are any
    labels_at_row: tl.tensor,  # [R] int64
    OTHERS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The same from the tensors and the state of wassrank/ops/sorted_losses.py; f, [R, B], is 0 for own passages, whose
    b knows their target."""
    at = labels_at_row[:, None] + k
    at_state = state + row * SORTED_WIDTH
    c = tl.load(coefficient + at, mask=own, other=0)
    b = c * 0 if constant is None else tl.load(constant + at, mask=own, other=0)
    f = c * 0
    if OTHERS:
        c = tl.where(own, c, tl.load(at_state, mask=in_rows, other=0)[:, None])
        b = tl.where(own, b, tl.load(at_state + 1, mask=in_rows, other=0)[:, None])
        f = tl.where(own, 0.0, tl.load(at_state + 2, mask=in_rows, other=0)[:, None])
    return c, b, f, tl.load(at_state + 3, mask=in_rows, other=0)


@triton.jit
def others_matter(
    state: tl.tensor,
    row: tl.tensor,  # [R] int64
    in_rows: tl.tensor,  # [R] bool
) -> tl.tensor:
    """Of the sorted path: whether the others' gradient may be other than 0, [R] bool."""
    at_state = state + row * SORTED_WIDTH
    c = tl.load(at_state, mask=in_rows, other=0)
    b = tl.load(at_state + 1, mask=in_rows, other=0)
    f = tl.load(at_state + 2, mask=in_rows, other=0)
    return (c != 0) | (b != 0) | (f != 0)


def plan_backward(a: BackwardArguments, tuning: TritonTuning) -> tuple[Tensor, Launch]:
    """The gradient of scores, not yet computed, and the launch that computes it."""
    return _plan_backward(
        a,
        {
            "labels": a.labels,
            "positives": a.positives,
            "in_batch": a.in_batch,
            "num_levels": a.num_levels,
            "OTHERS": others_read(*sizes(a.scores, a.labels, a.offsets)[1:], a.in_batch) > 0,
            "AFFINE": a.state.shape[1] > a.num_levels + 1,
        },
        a.labels,
        tuning,
    )


def plan_sorted_backward(a: SortedBackwardArguments, tuning: TritonTuning) -> tuple[Tensor, Launch]:
    """The same for the sorted path."""
    _, N, K = sizes(a.scores, a.coefficient, a.offsets)
    return _plan_backward(
        a,
        {"coefficient": a.coefficient, "constant": a.constant, "OTHERS": K != N, "AFFINE": a.constant is not None},
        a.coefficient,
        tuning,
    )


def _plan_backward(
    a: BackwardArguments | SortedBackwardArguments,
    own: dict[str, Any],  # what the path has of its own
    labelled: Tensor,  # a number for each labelled passage
    tuning: TritonTuning,
) -> tuple[Tensor, Launch]:
    Q, N, K = sizes(a.scores, labelled, a.offsets)
    grad_scores = torch.empty_like(a.scores)
    packed = a.offsets is not None
    tile = packed_backward_tile(Q, N, tuning) if packed else backward_tile(N, tuning)
    absent = {"labels": None, "coefficient": None, "constant": None, "positives": None, "in_batch": 0, "num_levels": 0}
    launch = Launch(
        backward_kernel,
        grid=(ceil_div(Q, tile.rows), 1 if packed else ceil_div(N, tile.block)),
        arguments=absent
        | own
        | {
            "grad_loss": a.grad_loss,
            "scores": a.scores,
            "target": a.target,
            "mask": a.mask,
            "offsets": a.offsets,
            "state": a.state,
            "scale": a.scale,
            "grad_scores": grad_scores,
            "Q": Q,
            "N": N,
            "K": K,
            "mask_stride": mask_stride(a.scores, a.mask),
            "target_stride": 0 if a.target is None else a.target.shape[-1],
            "exponent_scale": exponent_scale(a.temperature),
            "GRAD_PER_ROW": a.grad_loss.dim() == 1,
            "ALL_OWN": K == N,
            "TARGET_COVERS_ROW": a.target is not None and a.target.shape == a.scores.shape,
            "COLUMN": column_type(N),
            "ROWS": tile.rows,
            "BLOCK": tile.block,
        },
        num_warps=tile.num_warps,
    )
    return grad_scores, launch


def sizes(scores: Tensor, labels: Tensor, offsets: Tensor | None) -> tuple[int, int, int]:
    """Q, N, K; of packed lists Q, T, T."""
    if offsets is not None:
        return offsets.shape[0] - 1, scores.shape[0], scores.shape[0]
    Q, N = scores.shape
    if N >= 2**31:
        raise ValueError(f"scores are [{Q}, {N}]: the Triton kernels count a row's columns in 32 bits")
    return Q, N, labels.shape[1]


def column_type(total: int) -> tl.dtype:
    """Of packed lists, `total` columns in all, one of which may have them all."""
    return tl.int64 if total >= 2**31 else tl.int32


def others_read(N: int, K: int, in_batch: int) -> int:
    """Other queries' passages that take part in a row."""
    return 0 if in_batch == EXCLUDED else N - K


def mask_stride(scores: Tensor, mask: Tensor | None) -> int:
    """Elements of mask between rows: 0 where one flag a passage serves every row."""
    return scores.shape[-1] if mask is not None and mask.shape == scores.shape else 0


def exponent_scale(temperature: float) -> float:
    """exp(x / temperature) = 2^(x · exponent_scale), rounded once, here in float64."""
    return math.log2(math.e) / temperature


def tuned_for(scores: Tensor) -> TritonTuning:
    return triton_tuning(capability(scores.device))
