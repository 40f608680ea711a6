"""Arguments as the operators take them: contiguous, of the computing dtype, one of two ways of saying a thing."""

from __future__ import annotations

import torch
from torch import Tensor

from wassrank.codes import Reduction, Target

TARGETS = {kind.name: int(kind) for kind in Target}
REDUCTIONS = {kind.name: int(kind) for kind in Reduction}


def contiguous(tensor: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
    if tensor is None:
        return None
    return (tensor if dtype is None else tensor.to(dtype)).contiguous()


def given_target(target: str | Tensor, C: torch.dtype) -> tuple[Tensor | None, int]:
    """The masses, if they are given, and the kind."""
    if isinstance(target, Tensor):
        return target.to(C).contiguous(), TARGETS["given"]
    return None, TARGETS[target]


def temperatures(label_temperature: float | Tensor, C: torch.dtype) -> tuple[Tensor | None, float]:
    """One a query, if there is one a query, or else one for all."""
    if isinstance(label_temperature, Tensor):
        return label_temperature.to(C).contiguous(), 1.0
    return None, label_temperature
