"""Which of a row's own passages take part where `exclude` and InfoNCE's `negative_grade` leave some out.

`begin` says where a row's own passages are, those its labels grade: [q, K] labels are of passages
(begin + row)·K …; None: labels grade all passages, [q, N].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def as_tensor(exclude: Tensor | Sequence[tuple[int, int]] | None, device: torch.device) -> Tensor | None:
    """Bool [q, N], or int64 pairs (row, passage) [M, 2]."""
    if exclude is None:
        return None
    if not isinstance(exclude, Tensor):
        return torch.tensor(exclude, dtype=torch.int64, device=device).reshape(-1, 2)
    return exclude if exclude.dtype == torch.bool else exclude.long()


def real(labels: Tensor, mask: Tensor | None, exclude: Tensor | None, begin: int | None) -> Tensor:
    """Which own passages take part, [q, K]."""
    takes_part = torch.ones_like(labels, dtype=torch.bool) if mask is None else _own(mask, labels, begin)
    if exclude is None:
        return takes_part
    if exclude.dtype == torch.bool:
        return takes_part & ~_own(exclude, labels, begin)
    return takes_part & ~_as_mask(_of_own(exclude, labels, begin), labels.shape)


def is_best(labels: Tensor, takes_part: Tensor) -> Tensor:
    """Which own passages have the best grade among those that take part."""
    if labels.shape[1] == 0:
        return takes_part
    grades = labels.double().masked_fill(~takes_part, -torch.inf)
    return takes_part & (grades == grades.amax(1, keepdim=True))


def positive_of(labels: Tensor, takes_part: Tensor, positives: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each query's positive among its own passages, the first of the best where none is named, and whether it takes
    part."""
    place = is_best(labels, takes_part).int().argmax(1) if positives is None else positives.long()
    inside = (place >= 0) & (place < labels.shape[1])
    place = torch.where(inside, place, 0)
    return place, inside & takes_part.gather(1, place[:, None])[:, 0]


def with_left_out(
    labels: Tensor,
    mask: Tensor | None,
    exclude: Tensor | None,
    positives: Tensor | None,
    negative_grade: int,
    begin: int | None,
    shape: torch.Size,  # [q, N]
) -> Tensor:
    """`exclude`, and own passages above `negative_grade` that are no positives: pairs, where they can be."""
    if positives is None:
        positive = is_best(labels, real(labels, mask, exclude, begin))
    else:
        positive = torch.arange(labels.shape[1], device=labels.device) == positives[:, None]
    left_out = ~positive & (labels > negative_grade)
    q, K = labels.shape
    if begin is None or (exclude is not None and exclude.dtype == torch.bool):
        if exclude is None or exclude.dtype != torch.bool:
            whole = _as_mask(labels.new_empty(0, 2).long() if exclude is None else exclude, shape)
        else:
            whole = exclude.clone()
        if begin is None:
            return whole.logical_or_(left_out)
        query = torch.arange(q, device=labels.device)
        whole.view(q, -1, K)[query, begin + query] |= left_out
        return whole
    place = torch.arange(q * K, device=labels.device)
    pairs = torch.stack([place // max(K, 1), torch.where(left_out.flatten(), place + begin * K, -1)], 1)
    return pairs if exclude is None else torch.cat([exclude, pairs])


def _own(values: Tensor, labels: Tensor, begin: int | None) -> Tensor:
    """Of what all passages have, [q, N] or one flag for every row [N], the row's own, [q, K]."""
    if values.shape == labels.shape or begin is None:
        return values.expand(labels.shape)
    q, K = labels.shape
    query = torch.arange(q, device=labels.device)
    if values.dim() == 1:
        return values.view(-1, K)[begin + query]
    return values.view(q, -1, K)[query, begin + query]


def _of_own(pairs: Tensor, labels: Tensor, begin: int | None) -> Tensor:
    """Pairs (row, place among the row's own passages)."""
    row, passage = pairs.unbind(1)
    return pairs if begin is None else torch.stack([row, passage - (begin + row) * labels.shape[1]], 1)


def _as_mask(pairs: Tensor, shape: torch.Size) -> Tensor:
    """Bool, True at the pairs that lie in it."""
    (q, n), (row, column) = shape, pairs.unbind(1)
    inside = (row >= 0) & (row < q) & (column >= 0) & (column < n)
    flat = torch.zeros(q * n + 1, dtype=torch.bool, device=pairs.device)
    flat[torch.where(inside, row * n + column, q * n)] = True  # others behind the last
    return flat[:-1].view(shape)
