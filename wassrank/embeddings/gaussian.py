"""The batch-Gaussian distance from embeddings: a backend's passes, each over a few rows of scores at a time.

Where processes share a batch the passes already work on some of its rows, and what they find is put together
(wassrank/gaussian/distance.py). A chunk of rows is such a part too: its scores are multiplied out, [c, N], passed over
and forgotten. Passes that follow one another on the same rows share them: rows' totals and columns' moments are one
sweep, the products with the targets the second, and the backward the third, five matrix products of 2QNd operations
instead of three. (Targets that are written out tile by tile cost a sweep for each tile's part of the columns, which is
one more of each kind.)

The gradient never is [Q, N] either: each chunk's goes to the embeddings at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from wassrank.gaussian.passes import Arguments, Passes, Row, Turned
from wassrank.processes.passages import Passages
from wassrank.reference.rows import compute_dtype

from .similarity import hide, prepared, returned

CPU_CHUNK, GPU_CHUNK = 1 << 19, 1 << 24
"""Scores in a chunk: 2 MiB of float32, and as much for their gradient; 64 MiB."""
FEWEST_ROWS = 16
"""Below, multiplying costs more for reading the passages than for its operations."""
COLUMNS = 2048
"""Passages that are converted or normalised at a time."""


class Embeddings(NamedTuple):
    queries: Tensor  # [q, d]
    passages: Passages
    temperature: Tensor | None  # [] of C: what scores are divided by before the passes see them
    exclude: Tensor | None
    cosine: bool
    chunk_rows: int  # 0: as many as seem best
    most_queries: int  # that any of the processes has, all of which go on tour as often as each other


class Gradients:
    """For the queries, prepared and over the temperature; the passages' are where the passages are."""

    def __init__(self, e: Embeddings) -> None:
        self.of_queries = torch.zeros_like(e.queries, dtype=compute_dtype(e.queries.dtype))


class ChunkedPasses:
    """`wassrank.gaussian.passes.Passes`, of `a` whose scores are a shape without numbers. `out` is `Gradients`."""

    def __init__(self, a: Arguments, first: int, e: Embeddings, passes: Callable[[Arguments, int], Passes]) -> None:
        self.embeddings = e
        self._a, self._first, self._passes = a, first, passes
        self._C = compute_dtype(e.queries.dtype)
        self._moments: Tensor | None = None
        N = a.scores.shape[1]
        numel = CPU_CHUNK if a.scores.is_cpu else GPU_CHUNK
        self._height = max(min(e.chunk_rows or max(numel // max(N, 1), FEWEST_ROWS), e.most_queries), 1)
        self._buffer: Tensor | None = None

    def rows(self) -> tuple[Tensor, Tensor]:
        states, excesses = [], []
        merged = _Merged()
        refused = None
        for _, passes in self._chunks():
            try:
                state, excess = passes.rows()
            except ValueError as wrong:  # other processes go on with their tours, which must not miss this one
                refused = wrong
                continue
            states.append(state)
            excesses.append(excess)
            merged.add(passes.moments(state), state)
        if refused is not None:
            raise refused
        if not states:
            state, excess = self._passes(self._a, self._first).rows()
            states, excesses, self._moments = [state], [excess], self._passes(self._a, self._first).moments(state)
        else:
            self._moments = merged.moments()
        return torch.cat(states), torch.cat(excesses)

    def moments(self, row: Tensor) -> Tensor:
        assert self._moments is not None
        return self._moments

    def products(self, row: Tensor, columns: Tensor, excess: Tensor, flag: Tensor | None) -> tuple[Tensor, Tensor]:
        # The flag is of no use to passes that do not see all rows; where it may be set it was asked for.
        found = [passes.products(row[rows], columns, excess, None) for rows, passes in self._chunks()]
        if not found:
            return self._passes(self._a, self._first).products(row, columns, excess, None)
        sums, products = zip(*found, strict=True)
        return torch.cat(sums), torch.cat(products)

    def tiles(self, row: Tensor, columns: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
        found = [passes.tiles(row[rows], columns, begin, end) for rows, passes in self._chunks(begin, end)]
        if not found:
            return row.new_empty(0, end - begin), row.new_empty(0, end - begin)
        P, E_T = zip(*found, strict=True)
        return torch.cat(P), torch.cat(E_T)

    def along(self, row: Tensor, columns: Tensor) -> Tensor:
        found = [passes.along(row[rows], columns) for rows, passes in self._chunks()]
        return torch.cat(found) if found else row.new_empty(0)

    def gradient(
        self,
        row: Tensor,
        columns: Tensor,
        along: Tensor,
        scale: Tensor,
        out: Gradients,
        begin: int,
        end: int,
        turned: Turned | Tensor | None,
    ) -> None:
        N, G = self._a.scores.shape[1], self._room(2)[1]
        for rows, passes in self._chunks(begin, end, back=True):
            q = self._queries(rows)
            here = G[: len(q) * N].view(len(q), N)
            if passes is not None:
                part = turned[rows] if isinstance(turned, Tensor) else turned
                if isinstance(part, Turned):
                    part = Turned(part.W[rows], part.everywhere[rows], part.excess, None)
                passes.gradient(row[rows], columns, along[rows], scale, here, begin, end, part)
            of_queries = out.of_queries[rows]
            for block in self.embeddings.passages.tour_back(self._C, only=False):
                for at, to, p in self._pieces(block.begin, block.passages, begin, end):
                    piece = here[:, at:to]
                    of_queries.addmm_(piece, p)
                    local = at - block.begin
                    raw = block.passages[local : local + len(p)]
                    block.hand_in(local, local + len(p), returned(raw, piece.T @ q, self.embeddings.cosine))

    def finished(self, out: Gradients) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients for the queries, for this process's passages, and for the temperature."""
        e = self.embeddings
        t = e.temperature
        of_temperature = out.of_queries.new_zeros(())
        for begin in range(0, len(e.queries), self._height):
            rows = slice(begin, begin + self._height)
            these = out.of_queries[rows]
            if t is not None:
                of_temperature -= self._queries(rows).flatten().dot(these.flatten()) / t
                these /= t
            returned(e.queries[rows], these, e.cosine)  # in place
        return out.of_queries.to(e.queries.dtype), e.passages.gradient(), of_temperature

    def _chunks(self, begin: int = 0, end: int | None = None, *, back: bool = False) -> Iterator[tuple[slice, Passes]]:
        """The rows of each chunk, and its passes: over scores of columns begin … end, others being anything."""
        q, N = self._a.scores.shape
        end = N if end is None else end
        buffer = self._room(1)[0]
        for top in range(0, self.embeddings.most_queries, self._height):
            rows = slice(min(top, q), min(top + self._height, q))
            queries = self._queries(rows)
            S = buffer[: len(queries) * N].view(len(queries), N)
            for block in self.embeddings.passages.tour():
                for at, to, p in self._pieces(block.begin, block.passages, begin, end):
                    torch.mm(queries, p.T, out=S[:, at:to])
            if len(queries):
                hide(S, self.embeddings.exclude, rows.start, 0)
                yield rows, self._passes(_of_rows(self._a, rows, S), self._first + rows.start)
            elif back:  # nothing here, and still a way back
                yield rows, None  # type: ignore[misc]

    def _room(self, buffers: int) -> Tensor:
        """[buffers, a chunk's scores]."""
        if self._buffer is None or len(self._buffer) < buffers:
            numel = self._height * self._a.scores.shape[1]
            self._buffer = self._a.scores.new_empty(buffers, numel, dtype=self._C)
        return self._buffer

    def _queries(self, rows: slice) -> Tensor:
        q = prepared(self.embeddings.queries[rows], self._C, self.embeddings.cosine)
        return q if self.embeddings.temperature is None else q / self.embeddings.temperature

    def _pieces(self, first: int, passages: Tensor, begin: int, end: int) -> Iterator[tuple[int, int, Tensor]]:
        """Of a block's passages those among begin … end, prepared, a piece at a time with its place in the batch."""
        as_they_are = passages.dtype == self._C and not self.embeddings.cosine
        width = max(len(passages), 1) if as_they_are else COLUMNS
        last = min(first + len(passages), end)
        for at in range(max(first, begin), last, width):
            to = min(at + width, last)
            yield at, to, prepared(passages[at - first : to - first], self._C, self.embeddings.cosine)


class _Merged:
    """Moments of several sets of samples: squares about the common mean are those about each one's own and what the
    means are apart."""

    def __init__(self) -> None:
        self._n: Tensor | None = None

    def add(self, moments: Tensor, row: Tensor) -> None:
        m = (row[:, Row.INVERSE] != 0).sum(dtype=torch.float64)
        sums, squares = moments.view(2, 2, -1).unbind(1)
        if self._n is None:
            self._n, self._sums, self._squares = m, sums.clone(), squares.clone()
            return
        apart = sums / m.clamp(min=1) - self._sums / self._n.clamp(min=1)
        both = self._n + m
        self._squares += squares + apart.square() * (self._n * m / both.clamp(min=1))
        self._sums += sums
        self._n = both

    def moments(self) -> Tensor:
        return torch.stack([self._sums, self._squares], 1).view(4, -1)


def _of_rows(a: Arguments, rows: slice, scores: Tensor) -> Arguments:
    def part(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows]

    return a._replace(
        scores=scores,
        labels=a.labels[rows],
        target=part(a.target),
        mask=a.mask if a.mask is None or a.mask.dim() == 1 else a.mask[rows],
        label_temperatures=part(a.label_temperatures),
    )
