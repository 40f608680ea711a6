"""The kernels that every row loss shares, with their launchers: rows' losses to one, and scores to their gradient.

A loss's forward leaves for each row of scores a weighted loss, a weight, and a state [c_0, …, c_{L−1}, s_max] as
described in wassrank/ops/grade_wasserstein.py. The rest does not depend on which loss it was.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from wassrank.codes import EXCLUDED
from wassrank.tuning import TritonTuning

from .launch import Launch, backward_tile, ceil_div
from .rows import float64_scalar, load_levels, load_scores


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
    scores: tl.tensor,  # [Q, N]
    labels: tl.tensor,  # [Q, K]
    mask: tl.tensor,  # as in forward_kernel, or None
    state: tl.tensor,  # [Q, num_levels + 1] of C
    scale: tl.tensor,  # [] of C
    grad_scores: tl.tensor,  # [Q, N]
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    mask_stride: tl.tensor,
    in_batch: tl.tensor,
    num_levels: tl.tensor,
    exponent_scale: tl.float64,  # log2(e) / temperature
    GRAD_PER_ROW: tl.constexpr,
    ALL_OWN: tl.constexpr,  # K == N: labels grade the whole row
    OTHERS: tl.constexpr,  # whether other queries' passages take part
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """grad · scale · c_level · exp((s − s_max)/temperature), the same for every loss that keeps a state of this form.

    The coefficient is fetched by its level from the row's state, a line or two of the first-level cache: one
    instruction a score, where selecting among the levels would cost two a level.
    """
    C: tl.constexpr = state.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = row < Q
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = in_rows[:, None] & (column < N)

    if ALL_OWN:
        k = column
        own = inside
    else:
        k = column - (row * K).to(column.dtype)[:, None]
        own = inside & (k >= 0) & (k < K)
    at = (row * N)[:, None] + column
    s = load_scores(scores, mask, at, (row * mask_stride)[:, None] + column, inside if ALL_OWN or OTHERS else own, C)
    takes_part = s != float("-inf")

    at_state = row * (num_levels + 1)
    # A label that strays reads level 0: its row's coefficients are all NaN.
    level, _ = load_levels(labels, (row * K)[:, None] + k, own, num_levels)
    c = tl.load(state + at_state[:, None] + level, mask=own, other=0)
    if OTHERS:
        c = tl.where(own, c, tl.load(state + at_state + in_batch, mask=in_rows, other=0)[:, None])
    top = tl.load(state + at_state + num_levels, mask=in_rows, other=0)
    upstream = tl.load(scale)
    if GRAD_PER_ROW:
        upstream = upstream * tl.load(grad_loss + row, mask=in_rows, other=0)[:, None]
    else:
        upstream = upstream * tl.load(grad_loss)
    e = tl.exp2((s - top[:, None]) * float64_scalar(exponent_scale).to(C))
    # c is 0 all along a row whose target has no mass; e, relative to no maximum there, may be infinite.
    gradient = tl.where(takes_part & (c != 0), upstream * c * e, 0.0)
    tl.store(grad_scores + at, gradient.to(grad_scores.dtype.element_ty), mask=inside)


def plan_backward(
    grad_loss: Tensor,
    scores: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    state: Tensor,
    scale: Tensor,
    in_batch: int,
    temperature: float,
    tuning: TritonTuning,
) -> tuple[Tensor, Launch]:
    """The gradient of scores, not yet computed, and the launch that computes it."""
    (Q, N), K = sizes(scores, labels)
    grad_scores = torch.empty_like(scores)
    tile = backward_tile(N, tuning)
    launch = Launch(
        backward_kernel,
        grid=(ceil_div(Q, tile.rows), ceil_div(N, tile.block)),
        arguments={
            "grad_loss": grad_loss,
            "scores": scores,
            "labels": labels,
            "mask": mask,
            "state": state,
            "scale": scale,
            "grad_scores": grad_scores,
            "Q": Q,
            "N": N,
            "K": K,
            "mask_stride": mask_stride(scores, mask),
            "in_batch": in_batch,
            "num_levels": state.shape[1] - 1,
            "exponent_scale": exponent_scale(temperature),
            "GRAD_PER_ROW": grad_loss.dim() == 1,
            "ALL_OWN": K == N,
            "OTHERS": others_read(N, K, in_batch) > 0,
            "ROWS": tile.rows,
            "BLOCK": tile.block,
        },
        num_warps=tuning.backward_warps,
    )
    return grad_scores, launch


def sizes(scores: Tensor, labels: Tensor) -> tuple[tuple[int, int], int]:
    """(Q, N), K."""
    Q, N = scores.shape
    if N >= 2**31:
        raise ValueError(f"scores are [{Q}, {N}]: the Triton kernels count a row's columns in 32 bits")
    return (Q, N), labels.shape[1]


def others_read(N: int, K: int, in_batch: int) -> int:
    """Other queries' passages that take part in a row."""
    return 0 if in_batch == EXCLUDED else N - K


def mask_stride(scores: Tensor, mask: Tensor | None) -> int:
    """Elements of mask between rows: 0 where one flag a passage serves every row."""
    return scores.shape[1] if mask is not None and mask.shape == scores.shape else 0


def exponent_scale(temperature: float) -> float:
    """exp(x / temperature) = 2^(x · exponent_scale), rounded once, here in float64."""
    return math.log2(math.e) / temperature
