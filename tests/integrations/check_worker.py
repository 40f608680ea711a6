"""One of two processes in which `wassrank.testing.check_adapter(…, shared=True)` looks at adapters that share a batch,
right ones and broken ones: what it finds in each. test_check_adapter.py says what that is to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

import wassrank
from wassrank.integrations import sentence_transformers as st
from wassrank.testing import AdapterError, check_adapter

from .joined import main

OPTIONS: dict[str, Any] = {"temperature": 0.5, "p": 2, "target": "linear"}
ROWS = wassrank.GradeWassersteinLoss(**OPTIONS)
BATCH = wassrank.GaussianWassersteinLoss(temperature=0.5, gather=True)
PROCESSES = 2


def from_embeddings(q: Tensor, p: Tensor, y: Tensor, **given: Any) -> Tensor:
    return ROWS.from_embeddings(q, p, y, gather=True, **given)


def right(q: Tensor, p: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    return from_embeddings(q, p, y, mask=mask) * PROCESSES


def unmasked(q: Tensor, p: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    return from_embeddings(q, p, y) * PROCESSES


def not_multiplied(q: Tensor, p: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    return from_embeddings(q, p, y, mask=mask)


def not_gathered(q: Tensor, p: Tensor, y: Tensor, mask: Tensor | None = None) -> Any:
    return ROWS(q @ p.T, y, mask=mask)


def gathered(x: Tensor, detached: bool = False) -> Tensor:
    parts = [torch.empty_like(x) for _ in range(PROCESSES)] if detached else list(all_gather(x))
    if detached:
        dist.all_gather(parts, x.detach())
        parts[dist.get_rank()] = x
    return torch.cat(parts)


def own_rows(q: Tensor, p: Tensor, y: Tensor, mask: Tensor | None, detached: bool) -> Any:
    """The mean over this process's rows: as the whole batch's where the others' are empty."""
    scores, first = (
        torch.full((PROCESSES * len(q), PROCESSES * len(p)), -torch.inf, dtype=q.dtype),
        dist.get_rank() * len(q),
    )
    scores[first : first + len(q)] = q @ gathered(p, detached).T
    masks = None if mask is None else gathered(mask, detached=True)
    return ROWS(scores, gathered(y, detached=True), mask=masks)


def rows(q: Tensor, p: Tensor, y: Tensor, mask: Tensor | None = None) -> Any:
    return own_rows(q, p, y, mask, detached=False)


def detached(q: Tensor, p: Tensor, y: Tensor, mask: Tensor | None = None) -> Any:
    return own_rows(q, p, y, mask, detached=True)


def framework(kind: Any, **options: Any) -> Callable[..., Tensor]:
    loss = kind(nn.Identity(), similarity_fct="dot_score", gather_across_devices=True, missing_label=-1, **options)
    call: Callable[..., Tensor] = loss.compute_loss_from_embeddings
    return call


LOSSES: dict[str, tuple[Callable[..., Tensor], Any, str]] = {
    "from embeddings": (right, ROWS, "embeddings"),
    "rows": (rows, ROWS, "embeddings"),
    "unmasked": (unmasked, ROWS, "embeddings"),
    "not multiplied": (not_multiplied, ROWS, "embeddings"),
    "not gathered": (not_gathered, ROWS, "embeddings"),
    "detached": (detached, ROWS, "embeddings"),
    "sentence-transformers": (framework(st.WassersteinLoss, **OPTIONS), ROWS, "columns"),
    "sentence-transformers, cached": (framework(st.CachedWassersteinLoss, **OPTIONS), ROWS, "columns"),
    "sentence-transformers, batch": (framework(st.GaussianWassersteinLoss, temperature=0.5), BATCH, "columns"),
    "column by column": (lambda columns, y: right(columns[0], torch.cat(columns[1:]), y), ROWS, "columns"),
}


def findings(name: str) -> list[str]:
    loss, expected, convention = LOSSES[name]
    padding = None if name == "column by column" else -1 if convention == "columns" else "mask"
    try:
        check_adapter(loss, convention=convention, expected=expected, padding=padding, shared=True)
    except AdapterError as error:
        return error.findings
    return []


def work(_: int, __: Path) -> dict[str, list[str]]:
    return {name: findings(name) for name in LOSSES}


if __name__ == "__main__":
    main(work)
