"""The level losses' tiles as the C++ extension has them, on the CPU (csrc/cpu/level_tiles.h)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wassrank import backends
from wassrank.addresses import DTYPES, address

from .arguments import Arguments

NUMBERS, EACH_LEVEL = 4, 4
"""Doubles of a row's sums: those of the whole row, and those of each level and of other queries' passages."""


class NativeTiles:
    """`wassrank.embeddings.tiles.LossTiles`."""

    def __init__(self, a: Arguments, total: int, first: int, state: Tensor | None = None) -> None:
        assert backends.native is not None
        self.a = a  # whose tensors must live as long as their addresses are known here
        q, K = a.labels.shape
        self._state = a.queries.new_empty(q, a.state_width, dtype=a.computing) if state is None else state
        kind = a.labels.dtype
        self._tiles: Any = backends.native.LevelTiles(
            a.labels.data_ptr(), address(a.target), address(a.mask), address(a.weight), address(a.label_temperatures),
            address(a.positives), address(a.position), self._state.data_ptr(), q, total, K, first,
            DTYPES[a.computing], kind.itemsize, kind is not torch.uint8,
            total if a.mask is not None and a.mask.dim() == 2 else 0, 0 if a.target is None else a.target.shape[1],
            a.wasserstein, a.info_nce, a.kl, a.target_kind, a.in_batch, a.num_levels, a.p,
            a.temperature if a.learned is None else float(a.learned.detach()), a.label_temperature,
        )  # fmt: skip
        self._one = torch.ones((), dtype=a.computing)
        self._sums: Tensor | None = None

    def gather(self, scores: Tensor, row: int, column: int) -> None:
        self._tiles.gather(self._rows_sums().data_ptr(), *_tile(scores, row, column))

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        losses, weights = (torch.empty(len(self.a.labels), dtype=torch.float64) for _ in range(2))
        self._tiles.finish(self._rows_sums().data_ptr(), losses.data_ptr(), weights.data_ptr())
        self._sums = None
        return losses, weights, self._state

    def gradient(self, scores: Tensor, row: int, column: int, state: Tensor, upstream: Tensor) -> None:
        assert state is self._state
        self._tiles.gradient(upstream.data_ptr(), self._one.data_ptr(), *_tile(scores, row, column))

    def _rows_sums(self) -> Tensor:
        if self._sums is None:
            width = NUMBERS + EACH_LEVEL * (self.a.num_levels + 1)
            self._sums = torch.zeros(len(self.a.labels), width, dtype=torch.float64)
            self._sums[:, :2] = -torch.inf  # the maximum, and the score of a named positive
        return self._sums


def _tile(scores: Tensor, row: int, column: int) -> tuple[int, ...]:
    """csrc/cpu/kernels.h's ScoreTile."""
    rows, columns = scores.shape
    return scores.data_ptr(), columns, row, rows, column, columns
