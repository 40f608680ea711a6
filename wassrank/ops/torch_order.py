"""The order of values by torch's own sort, for rows that no kernel here sorts: long ones and packed lists."""

from __future__ import annotations

import torch
from torch import Tensor


def order(values: Tensor, offsets: Tensor | None) -> Tensor:
    """int32, as values ([Q, K], or packed [T]): places by rising value, equal ones in the order they came in, NaN
    last. Waits for no device."""
    if offsets is None:
        return values.argsort(dim=1, stable=True).int()
    # Sorted by value, then, stably, by list.
    lists = torch.arange(len(offsets) - 1, device=values.device)
    of = lists.repeat_interleave(offsets.diff(), output_size=len(values))
    by_value = values.argsort(stable=True)
    places = by_value[of[by_value].argsort(stable=True)]
    return (places - offsets[:-1].repeat_interleave(offsets.diff(), output_size=len(values))).int()
