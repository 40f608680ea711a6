"""Grade-axis Wasserstein in Triton: the forward's kernel and its operators' host functions.

What is kept between the passes, and the operators' arguments: wassrank/ops/grade_wasserstein.py. Cost and potential:
wassrank/reference/transport.py. A program sweeps its rows (rows.py), makes their level masses a cost and a potential
(level_transport.py) and writes their state; then the rows' losses are reduced and, in the backward, the scores read
once more (row_kernels.py). Nothing is decided on the host and there are no atomics: a result has the same bits each
run, and a step can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from wassrank.codes import Reduction
from wassrank.reference.grade_wasserstein import TIE_ULPS, compute_dtype
from wassrank.tuning import TritonTuning, capability, triton_tuning

from .launch import Launch, ceil_div, forward_tile, run
from .level_transport import ORDER_1, ORDER_2, ORDER_ANY, level_transport, target_masses
from .row_kernels import exponent_scale, mask_stride, others_read, plan_backward, plan_reduction, sizes
from .rows import exp_below, float64_scalar, sweep_others, sweep_own


# What follows do_not_specialize gains nothing from a kernel of its own for the value 1 and for multiples of 16.
@triton.jit(do_not_specialize=["Q", "in_batch", "num_levels"])
def forward_kernel(
    scores: tl.tensor,  # [Q, N]
    labels: tl.tensor,  # [Q, K] integers
    target: tl.tensor,  # [Q, N] or [Q, K] of C, for TARGET given; else None
    mask: tl.tensor,  # element (row, n) at row · mask_stride + n; or None
    weight: tl.tensor,  # [Q] of C, or None
    row_loss: tl.tensor,  # [Q] of C, weighted
    row_weight: tl.tensor,  # [Q] of C, 0 for an empty row; or None
    state: tl.tensor,  # [Q, num_levels + 1] of C
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,  # own passages a row
    own_stride: tl.tensor,  # columns between one row's own passages and the next's: 0 or K
    mask_stride: tl.tensor,
    target_stride: tl.tensor,
    in_batch: tl.tensor,
    num_levels: tl.tensor,
    p: tl.float64,
    tie: tl.float64,
    exponent_scale: tl.float64,  # log2(e) / temperature
    inverse_temperature: tl.float64,
    label_temperature: tl.float64,
    ORDER: tl.constexpr,
    TARGET: tl.constexpr,
    TARGET_COVERS_ROW: tl.constexpr,  # target is [Q, N]
    OTHERS: tl.constexpr,  # whether other queries' passages take part
    ROWS: tl.constexpr,
    OWN_UNROLL: tl.constexpr,  # blocks of columns are read as unroll × lanes × vector; see rows.py
    OWN_LANES: tl.constexpr,
    OWN_VECTOR: tl.constexpr,
    OTHERS_UNROLL: tl.constexpr,
    OTHERS_LANES: tl.constexpr,
    OTHERS_VECTOR: tl.constexpr,
    LEVELS: tl.constexpr,  # num_levels, rounded up to a power of two
) -> None:
    C: tl.constexpr = state.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    level = tl.arange(0, LEVELS)[None, :]
    scale = float64_scalar(exponent_scale).to(C)

    own_begin = row * own_stride
    target_at = row * target_stride
    if TARGET_COVERS_ROW:
        target_at += own_begin
    top, masses, counts, given = sweep_own(
        scores, labels, mask, target, row, row * N + own_begin, row * mask_stride + own_begin, target_at,
        Q, K, num_levels, scale, ROWS, OWN_UNROLL, OWN_LANES, OWN_VECTOR, LEVELS, C,
    )  # fmt: skip
    if OTHERS:
        others_top, mass, count, others_given = sweep_others(
            scores, mask, target if TARGET_COVERS_ROW else None, row,
            Q, N, K, mask_stride, scale, ROWS, OTHERS_UNROLL, OTHERS_LANES, OTHERS_VECTOR, C,
        )  # fmt: skip
        higher = tl.maximum(top, others_top)
        masses *= exp_below(top, higher, scale).to(tl.float64)[:, None]
        mass *= exp_below(others_top, higher, scale).to(tl.float64)[:, None]
        masses += tl.where(level == in_batch, mass, 0.0)
        counts += tl.where(level == in_batch, count, 0.0)
        given += tl.where(level == in_batch, others_given, 0.0)
        top = higher

    # Epilogue: level masses → loss and coefficients.
    t = target_masses(counts, given, float64_scalar(label_temperature), TARGET, LEVELS)
    Z = tl.sum(masses, axis=1)
    total = tl.sum(t, axis=1)
    passages = tl.sum(counts, axis=1)
    stray = passages != passages
    empty = ((passages == 0) | (total == 0)) & ~stray
    Z = tl.where(empty, 1.0, Z)
    total = tl.where(empty, 1.0, total)
    sound = (Z - Z == 0) & (total - total == 0) & ~stray  # all finite

    m = masses / Z[:, None]
    cost, phi = level_transport(
        m, t / total[:, None], num_levels, float64_scalar(p), float64_scalar(tie), ORDER, LEVELS
    )
    centred = phi - tl.sum(m * phi, axis=1)[:, None]
    inside = row < Q
    w = tl.full((ROWS,), 1.0, tl.float64)
    if weight is not None:
        w = tl.load(weight + row, mask=inside, other=0).to(tl.float64)
    factor = tl.where(sound, w * float64_scalar(inverse_temperature) / Z, float("nan"))
    coefficient = tl.where(empty[:, None], 0.0, factor[:, None] * centred)
    loss = tl.where(empty, 0.0, tl.where(sound, w * cost, float("nan")))

    at_state = row * (num_levels + 1)
    tl.store(state + at_state[:, None] + level, coefficient.to(C), mask=inside[:, None] & (level < num_levels))
    tl.store(state + at_state + num_levels, tl.where(empty, 0.0, top), mask=inside)
    tl.store(row_loss + row, loss.to(C), mask=inside)
    if row_weight is not None:
        tl.store(row_weight + row, tl.where(empty, 0.0, w).to(C), mask=inside)


def forward(
    scores: Tensor,  # [Q, N]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K
    target: Tensor | None,  # [Q, N] or [Q, K] of C
    mask: Tensor | None,  # the shape of scores or labels
    weight: Tensor | None,  # [Q] of C
    target_kind: int,
    reduction: int,
    in_batch: int,
    num_levels: int,
    p: float,
    temperature: float,
    label_temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`wassrank::grade_wasserstein_triton`: loss [] or [Q], state [Q, num_levels + 1], scale []. Contiguous tensors."""
    outputs, launches = plan_forward(
        scores,
        labels,
        target,
        mask,
        weight,
        target_kind,
        reduction,
        in_batch,
        num_levels,
        p,
        temperature,
        label_temperature,
        tuned_for(scores),
    )
    run(launches, scores.device)
    return outputs


def backward(
    grad_loss: Tensor,  # [] or [Q] of C
    scores: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    state: Tensor,
    scale: Tensor,
    in_batch: int,
    temperature: float,
) -> Tensor:
    """`wassrank::grade_wasserstein_backward_triton`: the gradient of scores, [Q, N]."""
    grad_scores, launch = plan_backward(
        grad_loss, scores, labels, mask, state, scale, in_batch, temperature, tuned_for(scores)
    )
    run([launch], scores.device)
    return grad_scores


def plan_forward(
    scores: Tensor,
    labels: Tensor,
    target: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    target_kind: int,
    reduction: int,
    in_batch: int,
    num_levels: int,
    p: float,
    temperature: float,
    label_temperature: float,
    tuning: TritonTuning,
) -> tuple[tuple[Tensor, Tensor, Tensor], list[Launch]]:
    """The outputs, not yet computed, and the launches that compute them. Works on meta tensors too."""
    (Q, N), K = sizes(scores, labels)
    dtype = compute_dtype(scores.dtype)
    state = scores.new_empty((Q, num_levels + 1), dtype=dtype)
    if reduction == Reduction.none:
        loss = row_loss = scores.new_empty((Q,), dtype=dtype)
        row_weight = None
        scale = scores.new_ones((), dtype=dtype)
    else:
        loss, scale = scores.new_empty((), dtype=dtype), scores.new_empty((), dtype=dtype)
        row_loss, row_weight = scores.new_empty((2, Q), dtype=dtype).unbind()
        if reduction == Reduction.sum:
            row_weight = None

    others = others_read(N, K, in_batch)
    tile = forward_tile(
        N,
        K,
        others,
        num_levels,
        own_bytes=narrowest(scores, mask, labels, target),
        others_bytes=narrowest(scores, mask, target if target is not None and target.shape[1] == N else None),
        tuning=tuning,
    )
    rows = Launch(
        forward_kernel,
        grid=(ceil_div(Q, tile.rows),),
        arguments={
            "scores": scores,
            "labels": labels,
            "target": target,
            "mask": mask,
            "weight": weight,
            "row_loss": row_loss,
            "row_weight": row_weight,
            "state": state,
            "Q": Q,
            "N": N,
            "K": K,
            "own_stride": 0 if K == N else K,
            "mask_stride": mask_stride(scores, mask),
            "target_stride": 0 if target is None else target.shape[1],
            "in_batch": in_batch,
            "num_levels": num_levels,
            "p": p,
            "tie": TIE_ULPS * torch.finfo(dtype).eps,
            "exponent_scale": exponent_scale(temperature),
            "inverse_temperature": 1 / temperature,
            "label_temperature": label_temperature,
            "ORDER": {1.0: ORDER_1, 2.0: ORDER_2}.get(p, ORDER_ANY).value,
            "TARGET": int(target_kind),
            "TARGET_COVERS_ROW": target is not None and target.shape[1] == N,
            "OTHERS": others > 0,
            "ROWS": tile.rows,
            "OWN_UNROLL": tile.own.unroll,
            "OWN_LANES": tile.own.lanes,
            "OWN_VECTOR": tile.own.vector,
            "OTHERS_UNROLL": tile.others.unroll,
            "OTHERS_LANES": tile.others.lanes,
            "OTHERS_VECTOR": tile.others.vector,
            "LEVELS": tile.levels,
        },
        num_warps=tile.num_warps,
    )
    launches = [rows]
    if reduction != Reduction.none:
        launches.append(plan_reduction(row_loss, row_weight, loss, scale, tuning))
    return (loss, state, scale), launches


def tuned_for(scores: Tensor) -> TritonTuning:
    return triton_tuning(capability(scores.device))


def narrowest(*tensors: Tensor | None) -> int:
    """Bytes of the smallest element."""
    return min(t.element_size() for t in tensors if t is not None)
