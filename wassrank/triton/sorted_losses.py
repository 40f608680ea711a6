"""The losses of labels that are any floats in Triton: the forward's kernel and its operators' host functions.

What is kept between the passes, and the operators' arguments: wassrank/ops/sorted_losses.py. A program has a row: it
sums up what the losses look at (sorted_rows.py, and rows.py for other queries' passages), then walks the passages by
rising coordinate (line_transport.py), for p = 1 in the same kernel. The rows' losses are then reduced and, in the
backward, the scores read once more. Nothing is decided on the host and there are no atomics: a result has the same bits
each run, and a step can be captured in a CUDA graph.

Every loss's part of a row's gradient is, up to e, one number for all passages (`push`), but for b and for the
distance's `factor` (φ − ⟨P, φ⟩); its loss is `rest`, but for `price` times the distance. Factor and price are 0 where
there is nothing to ask of the passages, all are where there is nothing to compare, and all are NaN but the price where
a score, a label or a mass is not finite.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from wassrank.arguments import SORTED_STATE_WIDTH
from wassrank.arguments import SortedArguments as Arguments
from wassrank.arguments import SortedBackwardArguments as BackwardArguments
from wassrank.reference.grade_wasserstein import TIE_ULPS
from wassrank.reference.rows import compute_dtype
from wassrank.tuning import TritonTuning

from .launch import Launch, run, sorted_tile
from .level_transport import ORDER_1, ORDER_2, ORDER_ANY
from .line_transport import AT_ENDS, RECORD, coefficients_kernel, lay_out, line_distance, quantiles_kernel, write_row
from .row_kernels import (
    column_type,
    exponent_scale,
    mask_stride,
    others_read,
    plan_reduction,
    plan_sorted_backward,
    reduced_outputs,
    sizes,
    tuned_for,
)
from .rows import exp_below, float64_scalar, rise_of_maximum, sweep_others
from .sorted_rows import LOG2_E, STATE_WIDTH, only, own_bounds, plain_gain, sweep_maxima, sweep_sums, write_constants
from .targets import GIVEN, SOFTMAX


@triton.jit(do_not_specialize=["Q", "points_a_row", "all_points"])
def sorted_forward_kernel(
    scores: tl.tensor,  # [Q, N]; packed [T]
    labels: tl.tensor,  # [Q, K] of C; packed [T]
    order: tl.tensor,  # int32, as labels
    target: tl.tensor,  # [Q, N] or [Q, K] of C, packed [T], for TARGET given; else None
    mask: tl.tensor,  # element (row, n) at row · mask_stride + n, packed [T]; or None
    weight: tl.tensor,  # [Q] of C, or None
    label_temperatures: tl.tensor,  # [Q] of C, or None
    positives: tl.tensor,  # [Q] int64, or None
    offsets: tl.tensor,  # [Q + 1] int64 for packed lists, else None
    position: tl.tensor,  # as labels, or None
    row_loss: tl.tensor,  # [Q] of C, weighted
    row_weight: tl.tensor,  # [Q] of C, 0 for an empty row; or None
    coefficient: tl.tensor,  # as labels, of C
    constant: tl.tensor,  # as labels, of C; or None
    state: tl.tensor,  # [Q, STATE_WIDTH] of C
    line: tl.tensor,  # [4, points] float64 for what line_transport.py lays out; None for ORDER 1
    record: tl.tensor,  # [Q, RECORD] float64, likewise
    Q: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,  # own passages a row
    own_stride: tl.tensor,  # columns between one row's own passages and the next's: 0 or K
    mask_stride: tl.tensor,
    target_stride: tl.tensor,
    points_a_row: tl.tensor,
    all_points: tl.tensor,
    wasserstein: tl.float64,  # the losses' factors
    info_nce: tl.float64,
    kl: tl.float64,
    others_label: tl.float64,
    tie: tl.float64,
    exponent_scale: tl.float64,  # log2(e) / temperature
    inverse_temperature: tl.float64,
    label_temperature: tl.float64,
    ASKS: tl.constexpr,  # whether a loss looks at what the labels ask for
    INFO_NCE: tl.constexpr,
    KL: tl.constexpr,
    ORDER: tl.constexpr,
    TARGET: tl.constexpr,
    TARGET_COVERS_ROW: tl.constexpr,  # target is [Q, N]
    OTHERS: tl.constexpr,  # whether other queries' passages take part
    COLUMN: tl.constexpr,  # integers that count a packed list's columns
    ONE_BLOCK: tl.constexpr,  # whether BLOCK holds the points of every row
    BLOCK: tl.constexpr,
    OTHERS_UNROLL: tl.constexpr,  # as in rows.py
    OTHERS_LANES: tl.constexpr,
    OTHERS_VECTOR: tl.constexpr,
) -> None:
    C: tl.constexpr = state.dtype.element_ty
    ASKED: tl.constexpr = KL and TARGET == GIVEN
    row = tl.program_id(0).to(tl.int64)
    scale = float64_scalar(exponent_scale).to(C)
    inverse_t = float64_scalar(inverse_temperature)
    others_y = float64_scalar(others_label)
    at_row, labels_at_row, mask_at_row, own = own_bounds(offsets, row, Q, N, K, own_stride, mask_stride, COLUMN)
    count = own
    at_line = labels_at_row
    if OTHERS:
        count = own + 1
        at_line = row * points_a_row
        others_top, others_mass, others_count, others_x, others_given, others_asked, others_entropy = sweep_others(
            scores, mask, target if TARGET_COVERS_ROW else None, row + tl.zeros((1,), tl.int64),
            Q, N, K, mask_stride, scale, KL, ASKED, 1, OTHERS_UNROLL, OTHERS_LANES, OTHERS_VECTOR, C,
        )  # fmt: skip
    # From here on everything points to the row's own passages.
    scores += at_row
    labels += labels_at_row
    order += labels_at_row
    coordinates = labels
    if position is not None:
        coordinates = position + labels_at_row
    if mask is not None:
        mask += mask_at_row
    if target is not None:
        target += row * target_stride if offsets is None else at_row
        if TARGET_COVERS_ROW and offsets is None:
            target += row * own_stride
    if positives is not None:
        positives = tl.load(positives + row)

    top, best, low, high, stray = sweep_maxima(scores, labels, mask, coordinates, own, BLOCK, C)
    low, high, label_top = low.to(tl.float64), high.to(tl.float64), best.to(tl.float64)
    present = tl.zeros((), tl.float64)  # how many of the others take part
    if OTHERS:
        present = only(others_count)
        higher = tl.maximum(top, only(others_top))
        if KL:
            rise = rise_of_maximum(only(others_top), higher).to(tl.float64)
            others_x_sum = only(others_x) - present * rise
            others_asked_sum = only(others_asked) - only(others_given) * rise
        others_e = only(others_mass) * exp_below(only(others_top), higher, scale).to(tl.float64)
        top = higher
        low = tl.where(present > 0, tl.minimum(low, others_y), low)
        high = tl.where(present > 0, tl.maximum(high, others_y), high)
        label_top = tl.where(present > 0, tl.maximum(label_top, others_y), label_top)
    label_top = tl.where(label_top == float("-inf"), 0.0, label_top)
    label_t = float64_scalar(label_temperature)
    if label_temperatures is not None:
        label_t = tl.load(label_temperatures + row).to(tl.float64)
    label_scale = (1 / label_t * LOG2_E).to(C)
    line_others_x = tl.minimum(tl.maximum(others_y, low), high)  # they may take no part, and lie anywhere then
    Z, total, found, positives_x, asked, entropy, rank = sweep_sums(
        scores, labels, mask, target, coordinates, own, positives, best, top, label_top.to(C),
        low, high, line_others_x, scale, label_scale, INFO_NCE, KL, TARGET, OTHERS, BLOCK, C,
    )  # fmt: skip
    gains_of_others = tl.zeros((), tl.float64)
    if OTHERS:
        Z += others_e
        if TARGET == GIVEN:
            gains_of_others += only(others_given)
        else:
            one_other = tl.exp((others_y - label_top) / label_t) if TARGET == SOFTMAX else plain_gain(others_y, TARGET)
            one_other = tl.where(present > 0, one_other, 0.0)
            gains_of_others += present * one_other
        total += gains_of_others

    asks = (total != 0) & ASKS
    compares = asks | (found != 0)
    sound = (Z - Z == 0) & ((total - total == 0) | ~asks)
    dead = ~compares & (stray == 0)
    w = tl.full((), 1.0, tl.float64)
    if weight is not None:
        w = tl.load(weight + row).to(tl.float64)
    # NaN for a row that is not sound, 0 for one that has nothing to compare.
    unit = tl.where(sound & (stray == 0), w * inverse_t, float("nan"))
    unit = tl.where(dead, 0.0, unit)
    Z = tl.where(dead, 1.0, Z)
    mass_scale = 1 / Z
    gain_scale = 1 / tl.where(asks, total, 1.0)
    price = tl.where(asks & ~dead, w * float64_scalar(wasserstein), 0.0)
    factor = tl.where(asks & ~dead, unit * float64_scalar(wasserstein) * mass_scale, 0.0)
    push = unit * 0
    rest = unit * 0
    b_others = unit * 0
    f_others = unit * 0
    positives_pull = unit * 0
    gain_pull = unit * 0
    log_Z = tl.log(Z)
    if INFO_NCE:
        info_nce_factor = tl.where(found == 0, 0.0, float64_scalar(info_nce))
        positives_pull += unit * info_nce_factor / tl.maximum(found, 1.0)
        push += unit * info_nce_factor * mass_scale
        rest += tl.where(dead, 0.0, w) * info_nce_factor * (log_Z - positives_x * inverse_t / tl.maximum(found, 1.0))
    if KL:
        kl_factor = tl.where(asks, float64_scalar(kl), 0.0)
        gain_pull += unit * kl_factor * gain_scale
        push += unit * kl_factor * mass_scale
        if OTHERS:
            if TARGET == GIVEN:
                asked += others_asked_sum
                entropy += only(others_entropy)
                f_others -= tl.where(present > 0, gain_pull, gain_pull * 0)
            else:
                asked += one_other * others_x_sum
                entropy += gains_of_others * tl.log(tl.where(one_other > 0, one_other, 1.0))
                b_others -= gain_pull * one_other
        divergence = log_Z + tl.log(gain_scale) + (entropy - asked * inverse_t) * gain_scale
        rest += tl.where(dead, 0.0, w) * kl_factor * divergence
    if row_weight is not None:
        tl.store(row_weight + row, tl.where(dead, 0.0, w).to(C))
    at_state = state + row * STATE_WIDTH
    tl.store(at_state + 1, b_others.to(C))
    tl.store(at_state + 2, f_others.to(C))
    tl.store(at_state + 3, (tl.where(dead, 0.0, top) + unit * 0).to(C))

    mass_of_others = tl.zeros((), tl.float64)
    if OTHERS:
        mass_of_others = others_e * mass_scale
    if ORDER != ORDER_1:
        here = record + row * RECORD
        tl.store(here, price)
        tl.store(here + 1, factor)
        tl.store(here + 2, push)
        tl.store(here + 3, rest)
        tl.store(here + 4, top.to(tl.float64))
        tl.store(here + 5, mass_scale)
        tl.store(here + 6, mass_of_others)
        tl.store(here + 7, rank.to(tl.float64))
        tl.store(here + 8, present)

    if constant is not None:
        write_constants(
            scores, labels, mask, target, constant + labels_at_row, own, positives, best,
            label_top.to(C), label_scale, positives_pull, gain_pull, INFO_NCE, KL, TARGET, BLOCK, C,
        )  # fmt: skip

    passages = (scores, labels, mask, target, coordinates, order, own)
    on = (low, high, line_others_x, rank, count)
    masses = (top, scale, mass_scale, mass_of_others)
    gains = (label_top.to(C), label_scale, gain_scale, gains_of_others * gain_scale)
    if ORDER == ORDER_1:
        cost, others_c = line_distance(
            passages, on, masses, gains, coefficient + labels_at_row, factor, push, float64_scalar(tie),
            TARGET, OTHERS, ONE_BLOCK, BLOCK, C,
        )  # fmt: skip
        write_row(row_loss, state, row, price, rest, cost, others_c, present)
    else:
        at = line + at_line
        all_points = all_points.to(tl.int64)
        first, last = lay_out(
            passages, on, masses, gains, at, at + all_points, at + 2 * all_points, TARGET, OTHERS, BLOCK, C
        )
        tl.store(here + AT_ENDS, first.to(tl.float64))
        tl.store(here + AT_ENDS + 1, last.to(tl.float64))


def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`wassrank::sorted_losses_triton`: loss, coefficient, constant, state, scale. Contiguous tensors."""
    a = Arguments(*arguments)
    outputs, launches = plan_forward(a, tuned_for(a.scores))
    run(launches, a.scores.device)
    return outputs


def backward(*arguments: Any) -> Tensor:
    """`wassrank::sorted_losses_backward_triton`: the gradient of scores."""
    a = BackwardArguments(*arguments)
    grad_scores, launch = plan_sorted_backward(a, tuned_for(a.scores))
    run([launch], a.scores.device)
    return grad_scores


def plan_forward(
    a: Arguments, tuning: TritonTuning
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor, Tensor], list[Launch]]:
    """The outputs, not yet computed, and the launches that compute them. Works on meta tensors too."""
    Q, N, K = sizes(a.scores, a.labels, a.offsets)
    scores, dtype = a.scores, compute_dtype(a.scores.dtype)
    loss, scale, row_loss, row_weight = reduced_outputs(scores, Q, a.reduction)
    coefficient = torch.empty_like(a.labels)
    constant = torch.empty_like(a.labels) if a.affine else scores.new_empty((0,), dtype=dtype)
    state = scores.new_empty((Q, SORTED_STATE_WIDTH), dtype=dtype)

    others = others_read(N, K, a.in_batch)
    covers_row = a.target is not None and a.target.shape == scores.shape
    tile = sorted_tile(
        N, K, others, Q if a.offsets is not None else None, scores.element_size(), a.kl != 0 and covers_row, tuning
    )
    points_a_row = K + (others > 0)  # of packed lists, all
    all_points = points_a_row if a.offsets is not None else Q * points_a_row
    order_of_p = {1.0: ORDER_1, 2.0: ORDER_2}.get(a.p, ORDER_ANY).value
    scratch: dict[str, Tensor | None] = {"line": None, "record": None}
    if order_of_p != ORDER_1.value:
        scratch = {
            "line": scores.new_empty((4, all_points), dtype=torch.float64),
            "record": scores.new_empty((Q, RECORD.value), dtype=torch.float64),
        }
    shared = scratch | {"offsets": a.offsets, "Q": Q, "points_a_row": points_a_row, "all_points": all_points}
    read = {
        "scores": scores,
        "order": a.order,
        "mask": a.mask,
        "N": N,
        "K": K,
        "own_stride": 0 if K == N else K,
        "mask_stride": mask_stride(scores, a.mask),
        "exponent_scale": exponent_scale(a.temperature),
    }
    written = {"row_loss": row_loss, "coefficient": coefficient, "state": state}
    constants = {"OTHERS": others > 0, "COLUMN": column_type(N)}
    tie = TIE_ULPS * torch.finfo(dtype).eps
    launches = [
        Launch(
            sorted_forward_kernel,
            grid=(Q,),
            arguments=shared
            | read
            | written
            | constants
            | {
                "labels": a.labels,
                "target": a.target,
                "weight": a.weight,
                "label_temperatures": a.label_temperatures,
                "positives": a.positives if a.info_nce else None,
                "position": a.position,
                "row_weight": row_weight,
                "constant": constant if a.affine else None,
                "target_stride": 0 if a.target is None else a.target.shape[-1],
                "wasserstein": a.wasserstein,
                "info_nce": a.info_nce,
                "kl": a.kl,
                "others_label": a.others_label,
                "tie": tie,
                "inverse_temperature": 1 / a.temperature,
                "label_temperature": a.label_temperature,
                "ASKS": a.wasserstein != 0 or a.kl != 0,
                "INFO_NCE": a.info_nce != 0,
                "KL": a.kl != 0,
                "ORDER": order_of_p,
                "ONE_BLOCK": a.offsets is None and points_a_row <= tile.walk.block,
                "BLOCK": tile.walk.block,
                "TARGET": int(a.target_kind),
                "TARGET_COVERS_ROW": covers_row,
                "OTHERS_UNROLL": tile.others.unroll,
                "OTHERS_LANES": tile.others.lanes,
                "OTHERS_VECTOR": tile.others.vector,
            },
            num_warps=tile.walk.num_warps,
        )
    ]
    if order_of_p != ORDER_1.value:
        partial_cost = scores.new_empty((Q, tile.searchers), dtype=torch.float64)
        launches += [
            Launch(
                quantiles_kernel,
                grid=(Q, tile.searchers),
                arguments=shared
                | {
                    "partial_cost": partial_cost,
                    "searches": points_a_row.bit_length(),
                    "p": a.p,
                    "tie": tie,
                    "ORDER": order_of_p,
                    "COLUMN": column_type(N),
                    "BLOCK": tile.search.block,
                },
                num_warps=tile.search.num_warps,
            ),
            Launch(
                coefficients_kernel,
                grid=(Q,),
                arguments=shared
                | read
                | written
                | constants
                | {"partial_cost": partial_cost, "parts": tile.searchers, "BLOCK": tile.scan.block},
                num_warps=tile.scan.num_warps,
            ),
        ]
    if row_loss is not loss:
        launches.append(plan_reduction(row_loss, row_weight, loss, scale, tuning))
    return (loss, coefficient, constant, state, scale), launches
