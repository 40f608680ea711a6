"""W_p^p between weighted points on a line in Triton: kernels and the operator's host functions. Formulas:
wassrank/ops/wasserstein_1d.py.

Both sides are sorted, short rows of up to float32 by grade_order.py, others by torch. Then one kernel: for as many
points on either side, all of one mass, the k-th goes to the k-th; else the staircase (staircase.py), for which a
program keeps up to four float64 numbers for each point of the pair that it is at. Nothing is decided on the host
and there are no atomics: a result has the same bits each run, and a step can be captured in a CUDA graph.

A pair with no point on a side has loss 0 and gradients 0. Otherwise a value that is not finite, a weight that is
negative or not finite, or weights all 0 make its loss and the gradients of what takes part NaN.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from wassrank.arguments import PairArguments as Arguments
from wassrank.ops import torch_order
from wassrank.reference.rows import compute_dtype

from .grade_order import plan_sort, sorts, stride
from .launch import STAIRCASE_REGISTERS, Launch, ceil_div, pairing_tile, run, staircase_tile
from .level_transport import ORDER_1, ORDER_2, ORDER_ANY, distance_power
from .row_kernels import column_type
from .rows import float64_scalar
from .staircase import climb, lay_out, side_of, slope_of, write_potentials, write_slopes


@triton.jit(
    do_not_specialize=[
        "pairs", "n", "m", "u_apart", "v_apart", "u_values_stride", "v_values_stride", "u_weights_stride",
        "v_weights_stride", "u_mask_stride", "v_mask_stride", "u_order_stride", "v_order_stride",
    ]
)  # fmt: skip
def staircase_kernel(
    u_values: tl.tensor,  # [pairs, n] or [1, n]; packed [T]. So the others, and v's with m
    v_values: tl.tensor,
    u_weights: tl.tensor,  # of C, or None
    v_weights: tl.tensor,
    u_mask: tl.tensor,  # bool, or None
    v_mask: tl.tensor,
    u_order: tl.tensor,  # int32
    v_order: tl.tensor,
    u_offsets: tl.tensor,  # [pairs + 1] int64, or None
    v_offsets: tl.tensor,
    u_line: tl.tensor,  # [2 to 4, programs, n] float64; packed [2 to 4, T]
    v_line: tl.tensor,
    loss: tl.tensor,  # [pairs] of C
    u_slope: tl.tensor,  # [pairs, n] of C, packed [T]; None where it is not wanted
    v_slope: tl.tensor,
    u_potential: tl.tensor,
    v_potential: tl.tensor,
    pairs: tl.tensor,
    n: tl.tensor,
    m: tl.tensor,
    u_apart: tl.tensor,  # elements of a line from a point's number to its next
    v_apart: tl.tensor,
    u_values_stride: tl.tensor,  # elements from one pair to the next: 0 or n
    v_values_stride: tl.tensor,
    u_weights_stride: tl.tensor,
    v_weights_stride: tl.tensor,
    u_mask_stride: tl.tensor,
    v_mask_stride: tl.tensor,
    u_order_stride: tl.tensor,
    v_order_stride: tl.tensor,
    p: tl.float64,
    ORDER: tl.constexpr,
    COLUMN: tl.constexpr,  # integers that count a pair's points
    BLOCK: tl.constexpr,
    HALVINGS: tl.constexpr,
) -> None:
    C: tl.constexpr = loss.dtype.element_ty
    SLOPES: tl.constexpr = u_slope is not None or v_slope is not None
    POTENTIALS: tl.constexpr = u_potential is not None or v_potential is not None
    p = float64_scalar(p)
    slot = tl.program_id(0).to(tl.int64)
    for pair in range(slot, pairs, tl.num_programs(0)):
        u, u_begin = side_of(
            (u_values, u_weights, u_mask, u_order, u_offsets),
            (u_values_stride, u_weights_stride, u_mask_stride, u_order_stride),
            u_line, u_apart.to(tl.int64), pair, slot, pairs, n, COLUMN,
        )  # fmt: skip
        v, v_begin = side_of(
            (v_values, v_weights, v_mask, v_order, v_offsets),
            (v_values_stride, v_weights_stride, v_mask_stride, v_order_stride),
            v_line, v_apart.to(tl.int64), pair, slot, pairs, m, COLUMN,
        )  # fmt: skip
        u_count, u_total, u_wrong = lay_out(u, C, COLUMN, BLOCK)
        v_count, v_total, v_wrong = lay_out(v, C, COLUMN, BLOCK)
        tl.debug_barrier()
        empty = (u_count == 0) | (v_count == 0)
        wrong = u_wrong | v_wrong
        nothing = tl.where(empty, 0.0, float("nan")).to(tl.float64)  # in place of results
        u_count = tl.where(empty | wrong, 0, u_count)
        v_count = tl.where(empty | wrong, 0, v_count)
        # One more than log2 says, which may be rounded.
        searches = (tl.log2(tl.maximum(tl.maximum(u_count, v_count), 1).to(tl.float32)) + 2).to(tl.int32)
        cost = climb(
            u, v, u_count, v_count, p, searches, SLOPES, POTENTIALS, ORDER, COLUMN, BLOCK, HALVINGS
        )  # fmt: skip
        tl.store(loss + pair, tl.where(empty | wrong, nothing, cost).to(C))
        tl.debug_barrier()
        if u_slope is not None:
            write_slopes(u, u_count, 1.0, nothing, u_slope + u_begin, COLUMN, BLOCK)
        if v_slope is not None:
            write_slopes(v, v_count, -1.0, nothing, v_slope + v_begin, COLUMN, BLOCK)
        if u_potential is not None:
            write_potentials(u, u_count, u_total, nothing, u_potential + u_begin, COLUMN, BLOCK)
        if v_potential is not None:
            write_potentials(v, v_count, v_total, nothing, v_potential + v_begin, COLUMN, BLOCK)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["pairs", "n", "u_stride", "v_stride"])
def pairing_kernel(
    u_values: tl.tensor,  # [pairs, n] or [1, n]
    v_values: tl.tensor,
    u_order: tl.tensor,  # likewise, int32
    v_order: tl.tensor,
    loss: tl.tensor,  # [pairs] of C
    u_slope: tl.tensor,  # [pairs, n] of C, or None
    v_slope: tl.tensor,
    pairs: tl.tensor,
    n: tl.tensor,
    u_stride: tl.tensor,  # 0 or n
    v_stride: tl.tensor,
    p: tl.float64,
    ORDER: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    C: tl.constexpr = loss.dtype.element_ty
    p = float64_scalar(p)
    pair = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    real = pair < pairs
    u_values += pair * u_stride
    u_order += pair * u_stride
    v_values += pair * v_stride
    v_order += pair * v_stride
    mass = 1 / tl.maximum(n, 1).to(tl.float64)
    # What is not finite stands at an end, and makes this NaN.
    zero = difference(u_values, v_values, u_order, v_order, pair * 0, real & (n > 0), C)
    zero -= zero
    end = difference(u_values, v_values, u_order, v_order, pair * 0 + (n - 1), real & (n > 0), C)
    zero += end - end
    cost = tl.zeros((ROWS, BLOCK), tl.float64)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)[None, :]
        inside = real & (at < n)
        d = difference(u_values, v_values, u_order, v_order, at, inside, C)
        cost += distance_power(tl.abs(d), p, ORDER)
        if u_slope is not None or v_slope is not None:
            slope = mass * slope_of(d, p, ORDER) + zero
            if u_slope is not None:
                place = tl.load(u_order + at, mask=inside, other=0)
                tl.store(u_slope + pair * n + place, slope.to(C), mask=inside)
            if v_slope is not None:
                place = tl.load(v_order + at, mask=inside, other=0)
                tl.store(v_slope + pair * n + place, (-slope).to(C), mask=inside)
    tl.store(loss + pair, (mass * tl.sum(cost, axis=1)[:, None] + zero).to(C), mask=real)


@triton.jit
def difference(
    u_values: tl.tensor,  # pointers
    v_values: tl.tensor,
    u_order: tl.tensor,
    v_order: tl.tensor,
    at: tl.tensor,  # ranks
    inside: tl.tensor,  # bool
    C: tl.constexpr,
) -> tl.tensor:
    """x − y of the points of these ranks, float64; 0 outside."""
    x = tl.load(u_values + tl.load(u_order + at, mask=inside, other=0), mask=inside, other=0).to(C)
    y = tl.load(v_values + tl.load(v_order + at, mask=inside, other=0), mask=inside, other=0).to(C)
    return x.to(tl.float64) - y.to(tl.float64)


def forward(*arguments: Any) -> tuple[Tensor, ...]:
    """`wassrank::wasserstein_1d_triton`: loss, both sides' slopes, both sides' potentials. Contiguous tensors."""
    a = Arguments(*arguments)
    outputs, launches = plan_forward(a)
    run(launches, a.u_values.device)
    return outputs


def plan_forward(a: Arguments) -> tuple[tuple[Tensor, ...], list[Launch]]:
    """The outputs, not yet computed, and the launches that compute them. Works on meta tensors too. What torch sorts is
    sorted."""
    sides = [
        (a.u_values, a.u_weights, a.u_mask, a.u_offsets),
        (a.v_values, a.v_weights, a.v_mask, a.v_offsets),
    ]
    dtype = compute_dtype(a.u_values.dtype)
    loss = a.u_values.new_empty(a.pairs, dtype=dtype)
    kept = []
    for k in range(4):
        values, _, _, offsets = sides[k % 2]
        shape = tuple(values.shape) if offsets is not None else (a.pairs, values.shape[1])
        kept.append(values.new_empty(shape if a.wanted >> k & 1 else (0,), dtype=dtype))
    slopes_and_potentials = [t if a.wanted >> k & 1 else None for k, t in enumerate(kept)]

    orders, launches = [], []
    for values, _, mask, offsets in sides:
        order, sort = plan_order(values, mask, offsets)
        orders.append(order)
        launches += sort
    if is_paired(a):
        launches.append(plan_pairing(a, orders, loss, slopes_and_potentials))
    else:
        launches.append(plan_staircase(a, orders, loss, slopes_and_potentials))
    return (loss, *kept), launches


def plan_order(values: Tensor, mask: Tensor | None, offsets: Tensor | None) -> tuple[Tensor, list[Launch]]:
    """Places by rising value, [1, n] where all pairs share what decides; what takes no part last."""
    if offsets is None and sorts(values):
        order, launch = plan_sort(values, mask)
        return order, [launch]
    if mask is not None:
        values = torch.where(mask, values, torch.nan)
    return torch_order.order(values, offsets), []


def is_paired(a: Arguments) -> bool:
    """Whether the k-th point of either side goes to the k-th of the other."""
    given = (a.u_weights, a.v_weights, a.u_mask, a.v_mask, a.u_offsets, a.v_offsets)
    return all(t is None for t in given) and a.u_values.shape[1] == a.v_values.shape[1] and not a.wanted >> 2


def plan_pairing(a: Arguments, orders: list[Tensor], loss: Tensor, wanted: list[Tensor | None]) -> Launch:
    n = a.u_values.shape[1]
    tile = pairing_tile(n)
    return Launch(
        pairing_kernel,
        grid=(ceil_div(a.pairs, tile.rows),),
        arguments={
            "u_values": a.u_values,
            "v_values": a.v_values,
            "u_order": orders[0],
            "v_order": orders[1],
            "loss": loss,
            "u_slope": wanted[0],
            "v_slope": wanted[1],
            "pairs": a.pairs,
            "n": n,
            "u_stride": stride(a.u_values, a.pairs),
            "v_stride": stride(a.v_values, a.pairs),
            "p": a.p,
            "ORDER": order_of(a.p),
            "ROWS": tile.rows,
            "BLOCK": tile.block,
        },
        num_warps=tile.num_warps,
    )


def plan_staircase(a: Arguments, orders: list[Tensor], loss: Tensor, wanted: list[Tensor | None]) -> Launch:
    n, m = a.u_values.shape[-1], a.v_values.shape[-1]
    packed = a.u_offsets is not None, a.v_offsets is not None
    cells = sum(
        2 * points // max(1, a.pairs) if is_packed else points for points, is_packed in zip((n, m), packed, strict=True)
    )
    tile = staircase_tile(cells, a.pairs, all(packed))
    numbers = 4 if a.wanted >> 2 else 3 if a.wanted else 2
    lines = [
        loss.new_empty((numbers, points if is_packed else tile.programs * points), dtype=torch.float64)
        for points, is_packed in zip((n, m), packed, strict=True)
    ]
    given = {
        "values": (a.u_values, a.v_values),
        "weights": (a.u_weights, a.v_weights),
        "mask": (a.u_mask, a.v_mask),
        "order": tuple(orders),
    }
    arguments: dict[str, Any] = {}
    for name, tensors in given.items():
        for side, tensor, is_packed in zip("uv", tensors, packed, strict=True):
            arguments[f"{side}_{name}"] = tensor
            arguments[f"{side}_{name}_stride"] = 0 if tensor is None or is_packed else stride(tensor, a.pairs)
    return Launch(
        staircase_kernel,
        grid=(tile.programs,),
        arguments=arguments
        | {
            "u_offsets": a.u_offsets,
            "v_offsets": a.v_offsets,
            "u_line": lines[0],
            "v_line": lines[1],
            "loss": loss,
            "u_slope": wanted[0],
            "v_slope": wanted[1],
            "u_potential": wanted[2],
            "v_potential": wanted[3],
            "pairs": a.pairs,
            "n": n,
            "m": m,
            "u_apart": lines[0].shape[1],
            "v_apart": lines[1].shape[1],
            "p": a.p,
            "ORDER": order_of(a.p),
            "COLUMN": column_type(n + m),
            "BLOCK": tile.block,
            "HALVINGS": tile.block.bit_length(),
        },
        num_warps=tile.num_warps,
        max_registers=STAIRCASE_REGISTERS,
    )


def order_of(p: float) -> int:
    return int({1.0: ORDER_1, 2.0: ORDER_2}.get(p, ORDER_ANY).value)
