"""Places by rising value in plain torch, of rows of any length and of packed lists."""

from __future__ import annotations

import torch
from torch import Tensor


def stable_order(
    values: Tensor,  # [Q, N]; packed [T]
    offsets: Tensor | None = None,  # [Q + 1] int64, where values are packed
) -> Tensor:
    """int64, as values: each row's (list's) places by rising value, equal values in the order they came in, NaN last.
    Does not wait for the device."""
    if offsets is None:
        return values.argsort(dim=1, stable=True)
    # Sorted by value, then, stably, by list.
    lists = torch.arange(len(offsets) - 1, device=values.device)
    of = lists.repeat_interleave(offsets.diff(), output_size=len(values))
    by_value = values.argsort(stable=True)
    order = by_value[of[by_value].argsort(stable=True)]
    return order - offsets[:-1].repeat_interleave(offsets.diff(), output_size=len(values))
