"""The level losses in Triton: the forward's kernel and its operators' host functions.

What is kept between the passes, and the operators' arguments: wassrank/ops/level_losses.py. A program sweeps its rows
(rows.py), makes their sums by level a cost and coefficients, one epilogue a loss (grade_wasserstein, info_nce,
listwise_kl), adds these up and writes their state; then the rows' losses are reduced and, in the backward, the scores
read once more (row_kernels.py). Nothing is decided on the host and there are no atomics: a result has the same bits
each run, and a step can be captured in a CUDA graph.

An epilogue gives the row's cost and, up to the factor λ w / temperature, what its gradient multiplies e (c), 1 (b) and
the passage's given target (f) with. Losses that a call does not compute, and the sums that only they look at, are not
in its kernel: constants decide.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from wassrank.arguments import Arguments, BackwardArguments
from wassrank.codes import Target
from wassrank.reference.grade_wasserstein import TIE_ULPS
from wassrank.reference.rows import compute_dtype
from wassrank.tuning import TritonTuning

from .grade_wasserstein import grade_wasserstein
from .info_nce import best_grade, one_positive, read_positive
from .launch import Launch, ceil_div, forward_tile, packed_forward_tile, run
from .level_transport import ORDER_1, ORDER_2, ORDER_ANY
from .listwise_kl import listwise_kl, listwise_kl_given
from .row_kernels import (
    EXTRA,
    column_type,
    exponent_scale,
    mask_stride,
    others_read,
    plan_backward,
    plan_reduction,
    reduced_outputs,
    sizes,
    tuned_for,
)
from .rows import exp_below, float64_scalar, list_bounds, rise_of_maximum, sweep_others, sweep_own
from .targets import GIVEN, target_gains


# What follows do_not_specialize gains nothing from a kernel of its own for the value 1 and for multiples of 16.
@triton.jit(do_not_specialize=["Q", "in_batch", "num_levels"])
def forward_kernel(
    scores: tl.tensor,  # [Q, N]; packed [T]
    labels: tl.tensor,  # [Q, K] integers; packed [T]
    target: tl.tensor,  # [Q, N] or [Q, K] of C, packed [T], for TARGET given; else None
    mask: tl.tensor,  # element (row, n) at row · mask_stride + n, packed [T]; or None
    weight: tl.tensor,  # [Q] of C, or None
    label_temperatures: tl.tensor,  # [Q] of C, or None
    positives: tl.tensor,  # [Q] int64, or None
    offsets: tl.tensor,  # [Q + 1] int64 for packed lists, else None
    position: tl.tensor,  # [num_levels] float64, or None
    row_loss: tl.tensor,  # [Q] of C, weighted
    row_weight: tl.tensor,  # [Q] of C, 0 for an empty row; or None
    state: tl.tensor,  # [Q, width] of C
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,  # own passages a row
    own_stride: tl.tensor,  # columns between one row's own passages and the next's: 0 or K
    mask_stride: tl.tensor,
    target_stride: tl.tensor,
    in_batch: tl.tensor,
    num_levels: tl.tensor,
    wasserstein: tl.float64,  # the losses' factors
    info_nce: tl.float64,
    kl: tl.float64,
    p: tl.float64,
    tie: tl.float64,
    exponent_scale: tl.float64,  # log2(e) / temperature
    inverse_temperature: tl.float64,
    label_temperature: tl.float64,
    WASSERSTEIN: tl.constexpr,  # which losses are computed
    INFO_NCE: tl.constexpr,
    KL: tl.constexpr,
    LOGITS: tl.constexpr,  # whether one of them looks at the logits' sums
    ORDER: tl.constexpr,
    TARGET: tl.constexpr,
    TARGET_COVERS_ROW: tl.constexpr,  # target is [Q, N]
    OTHERS: tl.constexpr,  # whether other queries' passages take part
    COLUMN: tl.constexpr,  # integers that count a packed list's columns
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
    AFFINE: tl.constexpr = INFO_NCE or KL
    ASKED: tl.constexpr = KL and TARGET == GIVEN
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < Q
    scale = float64_scalar(exponent_scale).to(C)

    if offsets is None:
        own = K
        longest = K
        columns = K
        own_begin = row * own_stride
        at_row, labels_at_row, mask_at_row = row * N + own_begin, row * K, row * mask_stride + own_begin
        target_at_row = row * target_stride
        if TARGET_COVERS_ROW:
            target_at_row += own_begin
    else:
        at_row, own = list_bounds(offsets, row, Q, COLUMN)
        longest = tl.max(own, axis=0)
        columns = own[:, None]
        labels_at_row, mask_at_row, target_at_row = at_row, at_row, at_row
    top, masses, counts, logits, given, asked, entropy = sweep_own(
        scores, labels, mask, target, row, at_row, labels_at_row, mask_at_row, target_at_row,
        Q, longest, columns, num_levels, scale,
        LOGITS, ASKED, ROWS, OWN_UNROLL, OWN_LANES, OWN_VECTOR, LEVELS, LEVELS if WASSERSTEIN else 1, C,
    )  # fmt: skip
    if OTHERS:
        others_top, mass, count, others_logits, others_given, others_asked, others_entropy = sweep_others(
            scores, mask, target if TARGET_COVERS_ROW else None, row, Q, N, K, mask_stride, scale,
            LOGITS, ASKED, ROWS, OTHERS_UNROLL, OTHERS_LANES, OTHERS_VECTOR, C,
        )  # fmt: skip
        top, masses, logits, asked, entropy, mass, others_logits = with_others(
            top, masses, counts, logits, given, asked, entropy,
            others_top, mass, count, others_logits, others_given, others_asked, others_entropy, scale, AFFINE,
        )  # fmt: skip
    else:
        mass, count, others_logits, others_given = None, None, None, None
    if positives is None:
        score, positive_level = None, None
    else:
        score, positive_level = read_positive(
            scores, labels, mask, positives, row, at_row, labels_at_row, mask_at_row, Q, own, num_levels, C
        )
    conclude(
        row, inside, top, masses, counts, logits, given, asked, entropy, mass, count, others_logits, others_given,
        score, positive_level, weight, label_temperatures, position, row_loss, row_weight, state, num_levels, in_batch,
        float64_scalar(wasserstein), float64_scalar(info_nce), float64_scalar(kl), float64_scalar(p),
        float64_scalar(tie), float64_scalar(inverse_temperature), float64_scalar(label_temperature),
        WASSERSTEIN, INFO_NCE, KL, ORDER, TARGET, OTHERS, ROWS, LEVELS,
    )  # fmt: skip


@triton.jit
def with_others(
    top: tl.tensor,  # [R]
    masses: tl.tensor,  # [R, LEVELS]
    counts: tl.tensor,
    logits: tl.tensor,
    given: tl.tensor,
    asked: tl.tensor,  # [R]
    entropy: tl.tensor,
    others_top: tl.tensor,  # [R]
    mass: tl.tensor,  # [R, 1]
    count: tl.tensor,
    others_logits: tl.tensor,
    others_given: tl.tensor,
    others_asked: tl.tensor,  # [R]
    others_entropy: tl.tensor,
    scale: tl.tensor,  # log2(e) / temperature, of C
    AFFINE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Two sets of sums relative to one maximum: top, masses, logits, asked and entropy of both sets, mass and
    others_logits of the other."""
    higher = tl.maximum(top, others_top)
    masses *= exp_below(top, higher, scale).to(tl.float64)[:, None]
    mass *= exp_below(others_top, higher, scale).to(tl.float64)[:, None]
    if AFFINE:
        rise = rise_of_maximum(top, higher).to(tl.float64)
        others_rise = rise_of_maximum(others_top, higher).to(tl.float64)
        logits -= counts * rise[:, None]
        others_logits -= count * others_rise[:, None]
        asked += others_asked - tl.sum(given, axis=1) * rise - tl.sum(others_given, axis=1) * others_rise
        entropy += others_entropy
    return higher, masses, logits, asked, entropy, mass, others_logits


@triton.jit
def conclude(
    row: tl.tensor,  # [R] int64
    inside: tl.tensor,  # [R] bool
    top: tl.tensor,  # [R] of C, the row's maximum, which all sums are relative to
    masses: tl.tensor,  # [R, LEVELS], as all sums float64
    counts: tl.tensor,
    logits: tl.tensor,
    given: tl.tensor,  # [R, LEVELS], or [R, 1] where only its sum is asked for
    asked: tl.tensor,  # [R], of others too
    entropy: tl.tensor,
    mass: tl.tensor,  # [R, 1], others', or None unless OTHERS
    count: tl.tensor,
    others_logits: tl.tensor,
    others_given: tl.tensor,
    score: tl.tensor,  # [R] of C, the named positive's, or None where the best grade's are positives
    positive_level: tl.tensor,  # [R]
    weight: tl.tensor,  # pointers from here on, as in forward_kernel
    label_temperatures: tl.tensor,
    position: tl.tensor,
    row_loss: tl.tensor,
    row_weight: tl.tensor,
    state: tl.tensor,
    num_levels: tl.tensor,
    in_batch: tl.tensor,
    wasserstein: tl.tensor,  # float64, as all numbers from here on
    info_nce: tl.tensor,
    kl: tl.tensor,
    p: tl.tensor,
    tie: tl.tensor,
    inverse_temperature: tl.tensor,
    label_temperature: tl.tensor,
    WASSERSTEIN: tl.constexpr,
    INFO_NCE: tl.constexpr,
    KL: tl.constexpr,
    ORDER: tl.constexpr,
    TARGET: tl.constexpr,
    OTHERS: tl.constexpr,
    ROWS: tl.constexpr,
    LEVELS: tl.constexpr,
) -> None:
    """Of rows' sums their losses and state."""
    C: tl.constexpr = state.dtype.element_ty
    AFFINE: tl.constexpr = INFO_NCE or KL
    level = tl.arange(0, LEVELS)[None, :]
    Z = tl.sum(masses, axis=1)
    if OTHERS:
        Z += tl.sum(mass, axis=1)
    if INFO_NCE:  # before the others are added to a level
        info_nce_Z = tl.where(Z == 0, 1.0, Z)
        if score is None:
            found, info_nce_cost, info_nce_b = best_grade(counts, logits, info_nce_Z, inverse_temperature, LEVELS)
        else:
            found, info_nce_cost = one_positive(score, top, info_nce_Z, inverse_temperature)
    if OTHERS:
        masses += tl.where(level == in_batch, mass, 0.0)
        counts += tl.where(level == in_batch, count, 0.0)
        logits += tl.where(level == in_batch, others_logits, 0.0)
        given += tl.where(level == in_batch, others_given, 0.0) if WASSERSTEIN else others_given

    passages = tl.sum(counts, axis=1)
    stray = passages != passages
    sound = (Z - Z == 0) & ~stray  # all finite
    empty = ~stray
    cost = tl.zeros((ROWS,), tl.float64)
    c = tl.zeros((ROWS, LEVELS), tl.float64)
    if WASSERSTEIN or KL:
        temperatures = label_temperature
        if label_temperatures is not None:
            temperatures = tl.load(label_temperatures + row, mask=inside, other=1).to(tl.float64)[:, None]
        gains = target_gains(counts, temperatures, TARGET, LEVELS)
        t = given if TARGET == GIVEN else counts * gains
        total = tl.sum(t, axis=1)
        nothing = ((passages == 0) | (total == 0)) & ~stray
        empty &= nothing
        Z = tl.where(nothing, 1.0, Z)
        total = tl.where(nothing, 1.0, total)
        sound &= total - total == 0
    if WASSERSTEIN:
        factor = tl.where(nothing, 0.0, wasserstein)
        transport_cost, potential = grade_wasserstein(masses, Z, t, total, position, num_levels, p, tie, ORDER, LEVELS)
        cost = factor * transport_cost
        c = (factor / Z)[:, None] * potential
    if AFFINE:
        b = tl.zeros((ROWS, LEVELS), tl.float64)
        f = tl.zeros((ROWS,), tl.float64)
    if KL:
        factor = tl.where(nothing, 0.0, kl)
        c += (factor / Z)[:, None]
        if TARGET == GIVEN:
            divergence, kl_f = listwise_kl_given(Z, total, asked, entropy, inverse_temperature)
            f += factor * kl_f
        else:
            divergence, kl_b = listwise_kl(counts, logits, Z, gains, total, inverse_temperature)
            b += factor[:, None] * kl_b
        cost += factor * divergence
    if AFFINE:
        b_others = tl.sum(tl.where(level == in_batch, b, 0.0), axis=1)
        b_positive = tl.zeros((ROWS,), tl.float64)
    if INFO_NCE:
        empty &= found == 0
        factor = tl.where(found == 0, 0.0, info_nce)
        cost += factor * info_nce_cost
        if score is None:
            b += factor[:, None] * info_nce_b
        else:
            b_positive = tl.sum(tl.where(level == positive_level[:, None], b, 0.0), axis=1) - factor
        c += (factor / info_nce_Z)[:, None]

    w = tl.full((ROWS,), 1.0, tl.float64)
    if weight is not None:
        w = tl.load(weight + row, mask=inside, other=0).to(tl.float64)
    # A row that is not sound is NaN throughout, and one with nothing to compare 0, its maximum too.
    unit = tl.where(sound, w * inverse_temperature, float("nan"))
    loss = tl.where(empty, 0.0, tl.where(sound, w * cost, float("nan")))
    c = tl.where(empty[:, None], 0.0, unit[:, None] * c)
    at_level = inside[:, None] & (level < num_levels)
    if AFFINE:
        at_state = row * (2 * num_levels + EXTRA)
        extra = state + at_state + 2 * num_levels
        b = tl.where(empty[:, None], 0.0, unit[:, None] * b)
        tl.store(state + at_state[:, None] + num_levels + level, b.to(C), mask=at_level)
        tl.store(extra, tl.where(empty, 0.0, unit * b_others).to(C), mask=inside)
        tl.store(extra + 1, tl.where(empty, 0.0, unit * b_positive).to(C), mask=inside)
        tl.store(extra + 2, tl.where(empty, 0.0, unit * f).to(C), mask=inside)
        at_top = extra + EXTRA - 1
    else:
        at_state = row * (num_levels + 1)
        at_top = state + at_state + num_levels
    tl.store(state + at_state[:, None] + level, c.to(C), mask=at_level)
    tl.store(at_top, tl.where(empty, 0.0, top), mask=inside)
    tl.store(row_loss + row, loss.to(row_loss.dtype.element_ty), mask=inside)
    if row_weight is not None:
        tl.store(row_weight + row, tl.where(empty, 0.0, w).to(row_weight.dtype.element_ty), mask=inside)


def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`wassrank::level_losses_triton`: loss, state, scale. Contiguous tensors."""
    a = Arguments(*arguments)
    outputs, launches = plan_forward(a, tuned_for(a.scores))
    run(launches, a.scores.device)
    return outputs


def backward(*arguments: Any) -> Tensor:
    """`wassrank::level_losses_backward_triton`: the gradient of scores."""
    a = BackwardArguments(*arguments)
    grad_scores, launch = plan_backward(a, tuned_for(a.scores))
    run([launch], a.scores.device)
    return grad_scores


def plan_forward(a: Arguments, tuning: TritonTuning) -> tuple[tuple[Tensor, Tensor, Tensor], list[Launch]]:
    """The outputs, not yet computed, and the launches that compute them. Works on meta tensors too."""
    Q, N, K = sizes(a.scores, a.labels, a.offsets)
    scores, dtype = a.scores, compute_dtype(a.scores.dtype)
    state = scores.new_empty((Q, a.state_width), dtype=dtype)
    loss, scale, row_loss, row_weight = reduced_outputs(scores, Q, a.reduction)

    others = others_read(N, K, a.in_batch)
    logits = (a.kl != 0 and a.target_kind != Target.given) or (a.info_nce != 0 and a.positives is None)
    covers_row = a.target is not None and a.target.shape == scores.shape
    if a.offsets is None:
        tile = forward_tile(
            N,
            K,
            others,
            a.num_levels,
            logits,
            asked=a.kl != 0 and covers_row,
            own_bytes=narrowest(scores, a.mask, a.labels, a.target),
            others_bytes=narrowest(scores, a.mask, a.target if covers_row else None),
            tuning=tuning,
        )
    else:
        tile = packed_forward_tile(Q, N, a.num_levels, logits, tuning)
    rows = Launch(
        forward_kernel,
        grid=(ceil_div(Q, tile.rows),),
        arguments={
            "scores": scores,
            "labels": a.labels,
            "target": a.target,
            "mask": a.mask,
            "weight": a.weight,
            "label_temperatures": a.label_temperatures,
            "positives": a.positives if a.info_nce else None,
            "offsets": a.offsets,
            "position": on_device(a.position, scores.device),
            "row_loss": row_loss,
            "row_weight": row_weight,
            "state": state,
            "Q": Q,
            "N": N,
            "K": K,
            "own_stride": 0 if K == N else K,
            "mask_stride": mask_stride(scores, a.mask),
            "target_stride": 0 if a.target is None else a.target.shape[-1],
            "in_batch": a.in_batch,
            "num_levels": a.num_levels,
            "wasserstein": a.wasserstein,
            "info_nce": a.info_nce,
            "kl": a.kl,
            "p": a.p,
            "tie": TIE_ULPS * torch.finfo(dtype).eps,
            "exponent_scale": exponent_scale(a.temperature),
            "inverse_temperature": 1 / a.temperature,
            "label_temperature": a.label_temperature,
            "WASSERSTEIN": a.wasserstein != 0,
            "INFO_NCE": a.info_nce != 0,
            "KL": a.kl != 0,
            "LOGITS": logits,
            "ORDER": {1.0: ORDER_1, 2.0: ORDER_2}.get(a.p, ORDER_ANY).value,
            "TARGET": int(a.target_kind),
            "TARGET_COVERS_ROW": covers_row,
            "OTHERS": others > 0,
            "COLUMN": column_type(N),
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
    if row_loss is not loss:
        launches.append(plan_reduction(row_loss, row_weight, loss, scale, tuning))
    return (loss, state, scale), launches


def narrowest(*tensors: Tensor | None) -> int:
    """Bytes of the smallest element."""
    return min(t.element_size() for t in tensors if t is not None)


def on_device(position: Tensor | None, device: torch.device) -> Tensor | None:
    """The levels' coordinates, where kernels can read them.

    A small tensor rather than scalar arguments, which Triton would compile a kernel for each list of, or round to
    float32. It is copied by the first call with these coordinates, which as every first call (kernels are compiled then
    too) must not be one that a CUDA graph captures, and kept for good: a captured graph knows its address.
    """
    return None if position is None else _on_device(tuple(position.tolist()), device)


@functools.cache
def _on_device(coordinates: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(coordinates, dtype=torch.float64, device=device)
