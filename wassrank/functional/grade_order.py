"""`wassrank.grade_order`."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from wassrank import ops
from wassrank.arguments import LONGEST_ON_CUDA, TRITON_SORTS
from wassrank.backends import missing

from . import checks


def grade_order(values: Tensor, offsets: Tensor | None = None) -> Tensor:
    """The order in which `wassrank.grade_wasserstein` walks passages with float labels: their places by rising value.

    It depends on the labels alone. Labels that stay the same from step to step (a teacher's scores on a fixed set of
    passages) need be sorted only once; hand the result on as `order`.

    Args:
        values: [Q, K] or [Q, N]: the labels, or the `position` that takes their place. Packed lists [T].
        offsets: [Q + 1] integers, where values are packed.

    Returns:
        int32, as values: each row's (list's) places by rising value, equal values in the order they came in, NaN last.
    """
    if offsets is not None:
        checks.check_scores(values.float(), offsets)
        offsets = offsets.long().contiguous()
    elif values.dim() != 2:
        raise ValueError(f"values must be [Q, K], or [T] with offsets, got {tuple(values.shape)}")
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float() if values.is_floating_point() else values.double()
    if _is_native(values, offsets):
        return ops.sorted_losses.order(values.contiguous(), offsets)
    if offsets is None:
        short = values.dtype == torch.float32 and values.shape[1] <= TRITON_SORTS
        if short and values.device.type == "cuda" and _has_triton():
            return ops.sorted_losses.short_order(values.contiguous())
    return ops.torch_order.order(values, offsets)


@functools.cache
def _has_triton() -> bool:
    return missing("triton", "cuda") is None


# What is installed does not change while a program runs: nothing for torch.compile to trace.
torch.compiler.assume_constant_result(_has_triton)


def _is_native(values: Tensor, offsets: Tensor | None) -> bool:
    """Whether the native extension sorts that."""
    device = values.device
    if device.type == "cuda" and (offsets is not None or values.shape[1] > LONGEST_ON_CUDA[values.dtype]):
        return False
    return missing("native", device.type, device.index) is None
