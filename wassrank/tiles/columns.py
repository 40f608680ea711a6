"""Scores read in tiles of columns, all rows at a time, in float64: of such a tile a column's mean over the batch is
known, so that what is summed is centred first and no digits are lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """Scores and who takes part in them."""

    scores: Tensor  # [Q, N]
    mask: Tensor | None  # bool, [Q, N], or [N] for every row
    own: int | None  # K: only columns iK … iK + K − 1 of row i take part
    temperature: float
    width: int  # of a tile

    def tiles(self) -> Iterator[slice]:
        N = self.scores.shape[1]
        return (slice(begin, min(begin + self.width, N)) for begin in range(0, N, self.width))

    def owners(self, columns: slice, K: int) -> Tensor:
        """Which columns of the tile are each row's own, [Q, c]."""
        return torch.arange(columns.start, columns.stop) // K == torch.arange(len(self.scores))[:, None]

    def real(self, columns: slice) -> Tensor | None:
        """Who takes part, [Q, c] or [c]; None: all."""
        mask = None if self.mask is None else self.mask[..., columns]
        if self.own is None:
            return mask
        own = self.owners(columns, self.own)
        return own if mask is None else own & mask

    def logits(self, columns: slice) -> Tensor:
        """[Q, c] float64, −inf where nobody takes part."""
        scores, real = self.scores[:, columns].to(torch.float64, copy=True), self.real(columns)
        return scores if real is None else scores.masked_fill_(~real, -torch.inf)

    def hold_impossible(self) -> bool:
        """Whether the score of one that takes part is −inf."""
        if self.scores.numel() == 0 or self.scores.amin() != -torch.inf:
            return False
        for tile in self.tiles():
            impossible, real = self.scores[:, tile] == -torch.inf, self.real(tile)
            if (impossible if real is None else impossible & real).any():
                return True
        return False

    def maximum(self) -> Tensor:
        """Of each row, [Q] float64; 0 for a row in which nobody takes part."""
        top = torch.full((len(self.scores),), -torch.inf, dtype=torch.float64)
        if self.mask is None and self.own is None and self.scores.numel():
            top = self.scores.amax(1).double()
        else:
            for tile in self.tiles():
                torch.maximum(top, self.logits(tile).amax(1), out=top)
        return torch.where(top == -torch.inf, 0.0, top)

    def weights(self, columns: slice, top: Tensor) -> Tensor:
        """exp((scores − top) / temperature), [Q, c]."""
        return self.logits(columns).sub_(top[:, None]).mul_(1 / self.temperature).exp_()
