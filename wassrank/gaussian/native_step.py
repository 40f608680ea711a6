"""The forward of distance.py for a small batch on the CPU, in one call of C++: what lies between its pieces in Python
takes as long there as the passes do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wassrank import backends
from wassrank.reference.rows import compute_dtype, stray_grade

from .distance import Kept, kept_shapes
from .native import Native
from .passes import Arguments
from .split_svd import SMALL, SPLIT

_C: Any = backends.native


def forward(a: Arguments) -> tuple[Tensor, Kept] | None:
    """None where distance.py is to do it: targets that are written out, the diagonal covariance, many rows."""
    Q, N = a.scores.shape
    if a.diagonal or Q > SMALL or not (Q and N and a.blocks):
        return None
    *shapes, _ = kept_shapes(a)
    kept = [torch.empty(shape, dtype=torch.float64) for shape in shapes]
    row, excess, columns, along, W, everywhere = (tensor.data_ptr() for tensor in kept)
    flag, distance = torch.empty((), dtype=torch.bool), torch.empty((), dtype=torch.float64)
    room = torch.empty(4 * (Q * Q + Q + N), dtype=torch.float64)
    done, stray = _C.gaussian_small_forward(
        Native(a, 0).batch, SPLIT, a.eps, row, excess, columns, along, W, everywhere, flag.data_ptr(),
        distance.data_ptr(), room.data_ptr(),
    )  # fmt: skip
    if stray is not None:
        raise ValueError(stray_grade(stray if a.num_levels is None else int(stray), a.num_levels))
    return (distance.to(compute_dtype(a.scores.dtype)), Kept._make([*kept, flag])) if done else None
