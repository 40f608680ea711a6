"""Labels of frameworks that have no mask: one label may say that there is no passage."""

from __future__ import annotations

from torch import Tensor


def split_missing(labels: Tensor, missing: float | None) -> tuple[Tensor, Tensor | None]:
    """Grades, in which a missing passage has grade 0, and the mask, True = a real passage; None where all are."""
    if missing is None:
        return labels, None
    mask = labels != missing
    return labels.masked_fill(~mask, 0), mask
