"""Weighted points on a line as the public functions are given them: checked, and brought to one form."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wassrank.reference.rows import compute_dtype, padded
from wassrank.reference.wasserstein_1d import Points

from . import checks


class Side(NamedTuple):
    """One of the two sides of a batch of R pairs: [R, n], or [1, n] where it is the same for all. Packed, [T]."""

    values: Tensor
    weights: Tensor | None
    mask: Tensor | None
    offsets: Tensor | None  # [R + 1] int64

    def points(self) -> Points:
        """Without offsets. Reads how long the longest list is."""
        if self.offsets is None:
            return Points(self.values, self.weights, self.mask)
        width = int(self.offsets.diff().max()) if len(self.offsets) > 1 else 0
        real = torch.ones_like(self.values, dtype=torch.bool) if self.mask is None else self.mask
        weights = None if self.weights is None else padded(self.weights, self.offsets, width)
        return Points(padded(self.values, self.offsets, width), weights, padded(real, self.offsets, width))


def pair(
    u_values: Tensor,
    v_values: Tensor,
    u_weights: Tensor | None,
    v_weights: Tensor | None,
    u_mask: Tensor | None,
    v_mask: Tensor | None,
    u_offsets: Tensor | None,
    v_offsets: Tensor | None,
) -> tuple[Side, Side, torch.Size]:
    """Both sides and the batch's shape. Values come in one dtype, weights in the one that is computed in."""
    u, v = Side(u_values, u_weights, u_mask, u_offsets), Side(v_values, v_weights, v_mask, v_offsets)
    leading = [shape for name, side in (("u", u), ("v", v)) for shape in _leading(name, side)]
    checks.check_device("v_values", v_values, u_values)
    try:  # most often there is nothing to broadcast, and torch takes its time to say so
        batch = leading[0] if all(shape == leading[0] for shape in leading) else torch.broadcast_shapes(*leading)
    except RuntimeError:
        raise ValueError(
            f"leading dimensions do not broadcast: all but the last of values, weights and masks (of packed sides one, "
            f"the number of lists) are {sorted({tuple(shape) for shape in leading})}"
        ) from None
    dtype = u_values.dtype
    if v_values.dtype != dtype:
        dtype = torch.promote_types(dtype, v_values.dtype)
    return _rows(u, batch, dtype), _rows(v, batch, dtype), batch


def _leading(name: str, side: Side) -> list[torch.Size]:
    """All but the last dimension of what the side is given as; raises where that does not fit together."""
    values, weights, mask, offsets = side
    _check_floats(f"{name}_values", values)
    if values.dim() == 0 or (offsets is not None and values.dim() != 1):
        form = "[T], one list behind the other" if offsets is not None else "[..., points]"
        raise ValueError(f"{name}_values must be {form}; got shape {tuple(values.shape)}")
    n = values.shape[-1]
    if weights is not None:
        _check_floats(f"{name}_weights", weights)
        _check_fits(f"{name}_weights", weights, f"{name}_values", values)
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"{name}_mask must be a bool tensor (True = takes part), got {got}: use {name}_mask.bool()")
        _check_fits(f"{name}_mask", mask, f"{name}_values", values)
    if offsets is None:
        return [t.shape[:-1] for t in (values, weights, mask) if t is not None]
    if (
        not isinstance(offsets, Tensor)
        or offsets.dtype not in checks.INTEGERS
        or offsets.dim() != 1
        or len(offsets) < 1
    ):
        given = f"{offsets.dtype} {tuple(offsets.shape)}" if isinstance(offsets, Tensor) else type(offsets).__name__
        raise TypeError(f"{name}_offsets must be integers [R + 1] (where each list begins, and the end), got {given}")
    checks.check_device(f"{name}_offsets", offsets, values)
    if offsets.device.type == "cpu" and not torch.compiler.is_compiling():
        checks.check_offsets(offsets, n, f"{name}_offsets", f"{name}_values")
    return [torch.Size([len(offsets) - 1])]


def _check_floats(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in checks.FLOATS:
        raise TypeError(
            f"{name} must be float64, float32, float16 or bfloat16, got {tensor.dtype}: a distance has no gradient "
            f"with respect to integers; convert with {name}.float()"
        )


def _check_fits(name: str, tensor: Tensor, of: str, values: Tensor) -> None:
    if tensor.dim() == 0 or tensor.shape[-1] != values.shape[-1]:
        raise ValueError(
            f"{name} must have one element a point: {of} are {tuple(values.shape)}, got {tuple(tensor.shape)}"
        )
    checks.check_device(name, tensor, values)


def _rows(side: Side, batch: torch.Size, dtype: torch.dtype) -> Side:
    values, weights, mask, offsets = side
    values = values.to(dtype)
    if weights is not None:
        weights = weights.to(compute_dtype(dtype))
    if offsets is not None:
        return Side(values, weights, mask, offsets.long())
    values = _two_dimensional(values, batch)
    weights = None if weights is None else _two_dimensional(weights, batch)
    return Side(values, weights, None if mask is None else _two_dimensional(mask, batch), None)


def _two_dimensional(tensor: Tensor, batch: torch.Size) -> Tensor:
    """[R, n], or [1, n] where it is the same for the whole batch."""
    if tensor.dim() == 2 and len(batch) == 1:
        return tensor
    *leading, n = tensor.shape
    if all(size == 1 for size in leading):
        return tensor.reshape(1, n)
    return tensor.expand(*batch, n).reshape(math.prod(batch), n)


def check_values(u: Side, v: Side) -> None:
    """What can only be known by reading the tensors. The native kernels for the CPU say the same."""
    for name, side in (("u", u), ("v", v)):
        if side.offsets is not None:
            checks.check_offsets(side.offsets, side.values.shape[0], f"{name}_offsets", f"{name}_values")
        values, weights, mask = side.points()
        real = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
        _refuse((values.isnan() & real).any(-1), f"{name}_values' row", f"holds NaN: leave points out with {name}_mask")
        if weights is None:
            continue
        improper = ~((weights >= 0) & (weights < torch.inf)) & real
        _refuse(improper.any(-1), f"{name}_weights' row", "holds a weight that is negative, NaN or infinite")
        massless = real.any(-1) & ~((weights > 0) & real).any(-1)
        _refuse(massless, f"{name}_weights' row", "has no mass to normalise: all its weights are 0")


def _refuse(rows: Tensor, whose: str, why: str) -> None:
    if rows.any():
        raise ValueError(f"{whose} {int(rows.int().argmax())} {why}")
