"""Tensors as the C++ extension is told of them where it is called without torch's dispatcher."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
"""csrc/common/rows.h's Dtype."""


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
