"""The operators' arguments by name: of `wassrank::level_losses_from_embeddings[_backward]`. What they mean:
wassrank/ops/level_losses_from_embeddings.py."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wassrank.arguments import EXTRA
from wassrank.codes import Reduction, Target
from wassrank.reference.rows import compute_dtype


class Arguments(NamedTuple):
    """Of `wassrank::level_losses_from_embeddings`, in order. C is the computing dtype, float64 for float64 embeddings,
    else float32; all tensors are contiguous. Processes that share a batch have some of its rows each, q of the Q
    queries and n of the N passages; labels and what else goes with a query have q rows and know of all N passages."""

    queries: Tensor  # [q, d]
    passages: Tensor  # [n, d], of the queries' dtype
    learned: Tensor | None  # [] of C: the temperature, in place of `temperature`, where it may ask for a gradient
    labels: Tensor  # integers, [q, N] or [q, K] with N = Q·K
    target: Tensor | None = None  # [q, N] or [q, K] of C
    mask: Tensor | None = None  # bool, [q, N] or, one flag a passage for every row, [N]
    weight: Tensor | None = None  # [q] of C
    label_temperatures: Tensor | None = None  # [q] of C, in place of label_temperature
    positives: Tensor | None = None  # [q] int64: the positive's place among the row's own passages; outside: none
    exclude: Tensor | None = None  # bool [q, N], True = takes no part; or int64 pairs (row, passage) [M, 2], −1: none
    position: Tensor | None = None  # [num_levels] float64 on the CPU, rising; None: 0, 1, 2, …
    cosine: bool = False  # whether embeddings are normalised first
    tile_rows: int = 0  # of scores at a time; 0: as many as seem best
    tile_columns: int = 0
    wasserstein: float = 1.0  # the losses' factors; one that is 0 is not computed
    info_nce: float = 0.0
    kl: float = 0.0
    target_kind: int = int(Target.softmax)
    reduction: int = int(Reduction.mean)
    in_batch: int = 0
    num_levels: int = 8
    p: float = 1.0
    temperature: float = 1.0
    label_temperature: float = 1.0

    @property
    def computing(self) -> torch.dtype:
        return compute_dtype(self.queries.dtype)

    @property
    def affine(self) -> bool:
        return bool(self.info_nce or self.kl)

    @property
    def state_width(self) -> int:
        return 2 * self.num_levels + EXTRA if self.affine else self.num_levels + 1


TENSORS = 11
"""Of the arguments, the first; of these the first three have gradients."""
