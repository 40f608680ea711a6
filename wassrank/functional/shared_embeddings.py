"""Embeddings of a batch that several processes share: whether they fit together, and where all its passages are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wassrank.processes.group import Group, Shared, check_same, told
from wassrank.processes.passages import Gathered, Passages, Ring


def agree(
    group: Shared,
    check: Callable[[], object],
    queries: Tensor,
    passages: Tensor,
    labels: Tensor,
    options: dict[str, Any],
) -> tuple[Group, list[int]]:
    """Makes sure that all processes bring parts of one batch. Returns them, and how many passages each one has.

    Raises:
        In all processes, if one's arguments are wrong or shapes do not fit together."""

    def facts() -> tuple[list[int], Any]:
        same = {name: _form(value) if isinstance(value, Tensor) else value for name, value in options.items()}
        del same["exclude"]  # whose number of pairs may differ
        return [*queries.shape, len(passages), labels.shape[1]], (same, labels.dtype, queries.dtype)

    device = queries.device if isinstance(queries, Tensor) else torch.device("cpu")
    said, same = told(group, check, facts, device)
    shapes = ", ".join(f"{q} queries and {n} passages of width {d} with labels [{q}, {K}]" for q, d, n, K in said)
    if len({(d, K) for _, d, _, K in said}) > 1:
        raise ValueError(
            f"gather: every process must have embeddings of the same width and label the same K a query; they have "
            f"{shapes}"
        )
    check_same(same, "similarity, temperatures, target, in_batch, num_levels, factors, and dtypes")
    total, K = sum(n for _, _, n, _ in said), said[0][3]
    if total != K and any(n != q * K for q, _, n, _ in said):
        raise ValueError(
            f"gather: with labels [q, {K}] a process must have its queries' own passages, q*{K}, or labels of all "
            f"{total} passages; processes have {shapes}"
        )
    return Group(group, [q for q, *_ in said]), [n for _, _, n, _ in said]


def _form(value: Tensor) -> str:
    return f"{value.dtype}, {value.dim()}"


def everyones_mask(together: Group, mask: Tensor | None, labels: Tensor, total: int) -> Tensor | None:
    """Where this process's mask is of its own passages, all processes'."""
    of_own = mask is not None and mask.shape == labels.shape and labels.shape[1] != total
    return together.rows(mask) if of_own and mask is not None else mask


def everyones_passages(together: Group, sizes: list[int], ring: bool) -> Callable[[Tensor], Passages]:
    """What leads from the passages that this process has to all of them."""
    return lambda own: (Ring if ring else Gathered)(together, own, sizes)
