"""Exact nearest neighbours by inner product, in blocks, so that N may be millions: on any device, or by FAISS.

top_k(queries [Q, d], passages [N, d], k)  →  scores [Q, k], positions [Q, k], best first
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from training.errors import InputError

ENGINES = ("torch", "faiss")

QUERY_BLOCK = 256
PASSAGE_BLOCK = 1 << 18  # scores of 256 MiB at a time; long rows, whose best k torch finds faster than those of pieces


def top_k(
    queries: Tensor,  # [Q, d]
    passages: Tensor,  # [N, d], on the CPU; may be mapped from a file, it is read once
    k: int,
    device: torch.device | str = "cpu",
    engine: str = "torch",
) -> tuple[Tensor, Tensor]:  # [Q, min(k, N)] scores and positions, on the CPU
    """The k passages of the highest inner products with each query.

    Raises:
        InputError: queries and passages of different dimension, scores that are not finite, FAISS asked for and not
            installed.
    """
    if queries.shape[1] != passages.shape[1]:
        raise InputError(f"queries have {queries.shape[1]} dimensions and passages {passages.shape[1]}: two models?")
    k = min(k, len(passages))
    if engine == "faiss":
        return _faiss(queries, passages, k)
    queries = queries.to(device)
    scores = torch.full((len(queries), k), -torch.inf, device=device)
    positions = torch.zeros((len(queries), k), dtype=torch.int64, device=device)
    size = math.ceil(len(passages) / math.ceil(len(passages) / PASSAGE_BLOCK))  # of equal blocks
    for first in range(0, len(passages), size):
        block = passages[first : first + size].to(device)
        for start in range(0, len(queries), QUERY_BLOCK):
            rows = slice(start, start + QUERY_BLOCK)
            best = (queries[rows] @ block.T).topk(min(k, len(block)), dim=1)
            if first == 0 and len(block) >= k:
                scores[rows], positions[rows] = best
                continue
            # Of k found before and k of this block the best k.
            both = torch.cat([scores[rows], best.values], dim=1)
            where = torch.cat([positions[rows], best.indices + first], dim=1)
            scores[rows], kept = both.topk(k, dim=1)
            positions[rows] = where.gather(1, kept)
    _check_finite(scores)  # to topk NaN is above all numbers: one anywhere is found
    return scores.cpu(), positions.cpu()


def _check_finite(values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise InputError("embeddings are not finite: the model has diverged")


def _faiss(queries: Tensor, passages: Tensor, k: int) -> tuple[Tensor, Tensor]:
    try:
        faiss: Any = importlib.import_module("faiss")
    except ImportError as error:
        raise InputError("FAISS is not installed: pip install faiss-cpu, or search with torch") from error
    _check_finite(queries)  # FAISS never finds what has a NaN
    index = faiss.IndexFlatIP(passages.shape[1])
    for first in range(0, len(passages), PASSAGE_BLOCK):
        block = passages[first : first + PASSAGE_BLOCK]
        _check_finite(block)
        index.add(block.numpy())
    scores, positions = index.search(queries.numpy(), k)
    return torch.from_numpy(scores), torch.from_numpy(positions)
