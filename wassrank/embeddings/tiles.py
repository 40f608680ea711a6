"""The engine: scores of embeddings a tile at a time, each given to a loss's epilogue while it is in cache.

Forward, one sweep: every tile is added to its rows' sums (online, so columns may come in any number of pieces), then
each row's sums become its loss and a state of a few numbers. Backward, one sweep: a tile is computed again and the
epilogue turns it, in place, into G = ∂loss/∂S; from there to the embeddings it is two matrix products,

    ∂loss/∂q̂_i = Σ_n G_in p̂_n,    ∂loss/∂p̂_n = Σ_i G_in q̂_i.

2QNd operations each for the scores (twice) and for these two, against three times 2QNd where scores are stored. The
largest temporary is one tile; beside it one of half-precision or normalised embeddings. Sums run over tiles in a fixed
order: the same bits each time.

What a loss brings is `LossTiles`: its row statistics and its gradient for a score, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wassrank.codes import EXCLUDED
from wassrank.processes.passages import Block, Passages

from .arguments import Arguments
from .similarity import hide, prepared, returned

CPU_TILE, GPU_TILE = 1 << 19, 1 << 24
"""Scores in a tile: 2 MiB of float32, half a core's share of cache or so; 64 MiB, enough for a GPU to be busy with."""
CPU_COLUMNS, GPU_COLUMNS = 512, 8192
"""Wide enough that multiplying a tile costs about what its part of one large product does."""


class LossTiles(Protocol):
    """Of one call, which has its arguments. Tiles are of the computing dtype, contiguous; the first score is that of
    this process's `row` and of the batch's passage `column`; −inf is a passage that takes no part."""

    def gather(self, scores: Tensor, row: int, column: int) -> None:
        """Adds a tile to the sums of its rows. A label that cannot be raises ValueError on the CPU, and elsewhere makes
        the row NaN."""
        ...

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of every row: the weighted loss [q] and the weight [q], float64, 0 where there is nothing to compare; and
        what `gradient` needs to know of it, [q, state_width] of C."""
        ...

    def gradient(self, scores: Tensor, row: int, column: int, state: Tensor, upstream: Tensor) -> None:
        """Puts into the scores' place the gradient of Σ upstream · loss; `upstream` [q] of C."""
        ...


def statistics(tiles: LossTiles, a: Arguments, passages: Passages, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `finish` gives, after all scores. `first` is the place of this process's first query in the batch."""
    grid = _Grid(a, passages.total, first)
    buffer = a.queries.new_empty(grid.height * grid.width, dtype=a.computing)
    refused = None
    for block in passages.tour():
        for _, column, p in grid.columns(block):
            for row, q in grid.rows(column, len(p)):
                S = buffer[: len(q) * len(p)].view(len(q), len(p))
                _scores(S, q, p, a, row, column)
                try:
                    tiles.gather(S, row, column)
                except ValueError as wrong:  # other processes go on with their tour, which must not miss this one
                    refused = wrong
    if refused is not None:
        raise refused
    return tiles.finish()


def gradients(
    tiles: LossTiles, a: Arguments, passages: Passages, first: int, state: Tensor, upstream: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For the queries [q, d], for this process's passages, and for the temperature, [] (less the factor −1/t)."""

    def fill(G: Tensor, tile: Tile) -> None:
        _scores(G, tile.queries, tile.passages, a, tile.row, tile.column)
        tiles.gradient(G, tile.row, tile.column, state, upstream)

    return swept_back(fill, a, passages, first)


class Tile(NamedTuple):
    """Of scores, on the way back."""

    row: int  # this process's first query in it,
    column: int  # the batch's first passage in it,
    block: Block
    begin: int  # and where the passages begin in their block
    queries: Tensor  # [r, d], as they are multiplied
    passages: Tensor  # [c, d]


def swept_back(
    fill: Callable[[Tensor, Tile], None],  # writes a tile's G = ∂(Σ upstream · loss)/∂S, [r, c] of C
    a: Arguments,
    passages: Passages,
    first: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `gradients` gives, whatever G comes from."""
    C = a.computing
    grid = _Grid(a, passages.total, first)
    buffer = a.queries.new_empty(grid.height * grid.width, dtype=C)
    of_queries = torch.zeros_like(a.queries, dtype=C)
    of_some = a.passages.new_empty(grid.width, a.passages.shape[1], dtype=C)
    for block in passages.tour_back(C):
        for begin, column, p in grid.columns(block):
            of_passages = of_some[: len(p)].zero_()
            for row, q in grid.rows(column, len(p)):
                G = buffer[: len(q) * len(p)].view(len(q), len(p))
                fill(G, Tile(row, column, block, begin, q, p))
                of_queries[row : row + len(q)].addmm_(G, p)
                of_passages.addmm_(G.T, q)
            end = begin + len(p)
            block.hand_in(begin, end, returned(block.passages[begin:end], of_passages, a.cosine))
    along = torch.zeros((), dtype=C, device=a.queries.device)
    for row, q in grid.rows(0, passages.total):
        of_these = of_queries[row : row + len(q)]
        if a.learned is not None:
            along += q.flatten().dot(of_these.flatten())
        returned(a.queries[row : row + len(q)], of_these, a.cosine)  # in place
    return of_queries.to(a.queries.dtype), passages.gradient().to(a.passages.dtype), along


class _Grid:
    """How the scores are cut into tiles."""

    def __init__(self, a: Arguments, total: int, first: int) -> None:
        self.a, self.first, self.K = a, first, a.labels.shape[1]
        # Other queries' passages take no part: tiles lie along the diagonal, small ones, of which less is wasted.
        self.diagonal = a.in_batch == EXCLUDED and total != self.K
        numel, width = (CPU_TILE, CPU_COLUMNS) if a.queries.is_cpu else (GPU_TILE, GPU_COLUMNS)
        if self.diagonal:
            width = max(width // 16, 16 * self.K)
            numel = width * max(width // max(self.K, 1), 1)
        self.width = max(min(a.tile_columns or width, total), 1)
        self.height = max(min(a.tile_rows or numel // self.width, len(a.queries)), 1)

    def columns(self, block: Block) -> Iterator[tuple[int, int, Tensor]]:
        """Of a block, tile by tile: the first one's place in it and in the batch, and the passages."""
        for begin in range(0, len(block.passages), self.width):
            p = prepared(block.passages[begin : begin + self.width], self.a.computing, self.a.cosine)
            yield begin, block.begin + begin, p

    def rows(self, column: int, columns: int) -> Iterator[tuple[int, Tensor]]:
        """Tile by tile, the queries that meet these passages."""
        begin, end = 0, len(self.a.queries)
        if self.diagonal and self.K:
            begin = max(column // self.K - self.first, begin)
            end = min((column + columns - 1) // self.K + 1 - self.first, end)
        for row in range(begin, end, self.height):
            yield row, prepared(self.a.queries[row : min(row + self.height, end)], self.a.computing, self.a.cosine)


def _scores(S: Tensor, q: Tensor, p: Tensor, a: Arguments, row: int, column: int) -> None:
    torch.mm(q, p.T, out=S)
    hide(S, a.exclude, row, column)
