"""`wassrank::grade_order_triton`: the order of short rows of float32 labels.

A label becomes the upper half of a 64-bit integer, its place the lower: sorting those is sorting by label, stably.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from wassrank.arguments import TRITON_SORTS

from .launch import WARP, Launch, ceil_div, power_of_two, run

LAST = tl.constexpr(2**31 - 1)
BEHIND_ALL = tl.constexpr(2**63 - 1)

SORTED_A_PROGRAM = 8 * WARP
"""Keys. With 8 a lane the exchanges of a bitonic sort that stay within a lane are its cheap ones, and all its keys are
registers."""


@triton.jit(do_not_specialize=["Q"])
def sort_kernel(
    values: tl.tensor,  # [Q, K] float32
    order: tl.tensor,  # [Q, K] int32
    Q: tl.tensor,
    K: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < Q) & (column < K)
    at = row * K + column
    x = tl.load(values + at, mask=inside, other=0)
    # IEEE's bits rise with the number from +0 up and with its size below: turned over there they rise throughout.
    # −0 is +0, and NaN, whatever its bits, is last.
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    image = tl.where(x == x, tl.where(bits < 0, bits ^ LAST, bits), LAST)
    key = (image.to(tl.int64) << 32) | column
    key = tl.sort(tl.where(inside, key, BEHIND_ALL), dim=1)
    tl.store(order + at, key.to(tl.int32), mask=inside)


def grade_order(values: Tensor) -> Tensor:
    order, launch = plan_sort(values)
    run([launch], values.device)
    return order


def plan_sort(
    values: Tensor,  # [Q, K] float32, K up to TRITON_SORTS, contiguous
) -> tuple[Tensor, Launch]:
    """The order, not yet computed, and the launch that computes it."""
    Q, K = values.shape
    if values.dtype != torch.float32 or K > TRITON_SORTS:
        raise ValueError(f"values are {values.dtype} [{Q}, {K}]: Triton sorts rows of up to {TRITON_SORTS} float32")
    order = torch.empty_like(values, dtype=torch.int32)
    block = power_of_two(K)
    rows = max(1, SORTED_A_PROGRAM // block)
    arguments = {"values": values, "order": order, "Q": Q, "K": K, "ROWS": rows, "BLOCK": block}
    return order, Launch(sort_kernel, grid=(ceil_div(Q, rows) if K else 0,), arguments=arguments, num_warps=1)
