"""`wassrank::grade_order_triton`: the order of short rows of float32 labels, and of points on a line.

A value becomes the upper half of a 64-bit integer, its place the lower: sorting those is sorting by value, stably.
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
    values: tl.tensor,  # [Q, K] float32 or narrower, or [1, K]
    mask: tl.tensor,  # likewise, bool: what is False comes last; or None
    order: tl.tensor,  # [Q, K] int32
    Q: tl.tensor,
    K: tl.tensor,
    values_stride: tl.tensor,  # K, or 0 for [1, K]
    mask_stride: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < Q) & (column < K)
    at = row * K + column
    x = tl.load(values + row * values_stride + column, mask=inside, other=0).to(tl.float32)
    # IEEE's bits rise with the number from +0 up and with its size below: turned over there they rise throughout.
    # −0 is +0, and NaN, whatever its bits, is last.
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    image = tl.where(x == x, tl.where(bits < 0, bits ^ LAST, bits), LAST)
    if mask is not None:
        image = tl.where(tl.load(mask + row * mask_stride + column, mask=inside, other=0) != 0, image, LAST)
    key = (image.to(tl.int64) << 32) | column
    key = tl.sort(tl.where(inside, key, BEHIND_ALL), dim=1)
    tl.store(order + at, key.to(tl.int32), mask=inside)


def grade_order(values: Tensor) -> Tensor:
    order, launch = plan_sort(values)
    run([launch], values.device)
    return order


def sorts(values: Tensor) -> bool:
    """Whether plan_sort takes them."""
    return values.dtype != torch.float64 and values.shape[1] <= TRITON_SORTS


def plan_sort(
    values: Tensor,  # [Q, K] float32 or narrower, K up to TRITON_SORTS, contiguous
    mask: Tensor | None = None,  # likewise, bool; either may be [1, K]. What is False comes last
) -> tuple[Tensor, Launch]:
    """The order, [Q, K] int32, not yet computed, and the launch that computes it."""
    Q, K = torch.broadcast_shapes(values.shape, values.shape if mask is None else mask.shape)
    if not sorts(values):
        raise ValueError(f"values are {values.dtype} [{Q}, {K}]: Triton sorts rows of up to {TRITON_SORTS} float32")
    order = values.new_empty((Q, K), dtype=torch.int32)
    block = power_of_two(K)
    rows = max(1, SORTED_A_PROGRAM // block)
    arguments = {
        "values": values,
        "mask": mask,
        "order": order,
        "Q": Q,
        "K": K,
        "values_stride": stride(values, Q),
        "mask_stride": 0 if mask is None else stride(mask, Q),
        "ROWS": rows,
        "BLOCK": block,
    }
    return order, Launch(sort_kernel, grid=(ceil_div(Q, rows) if K else 0,), arguments=arguments, num_warps=1)


def stride(tensor: Tensor, rows: int) -> int:
    """From one row to the next, 0 where all `rows` have the same."""
    return tensor.shape[1] if tensor.shape[0] == rows else 0
