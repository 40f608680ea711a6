"""The batch-Gaussian distance from embeddings: a backend's passes, each over a few rows of scores at a time.

Where processes share a batch the passes already work on some of its rows, and what they find is put together
(wassrank/gaussian/distance.py). A chunk of rows is such a part too: its scores are multiplied out, [c, N], passed over
and forgotten. The gradient never is [Q, N] either: each chunk's goes to the embeddings at once.

Scores are multiplied out once forward and once backward, four matrix products of 2QNd operations in all instead of
three (1024 queries, 8192 passages of width 384, two threads of an EPYC: 0.43 s a step, with scores stored 0.36 s;
benchmarks/losses/from_embeddings.py), where targets have the form of blocks: what the products with the targets need
beside P, the excess w, depends on labels alone and is found first, from scores of 0; and what needs the columns' means,
which are known when all chunks have been seen, is ⟨P_i, x + y(P_i − μ_P)⟩ alone, of which the gradient is the first to
ask. Otherwise (targets written out, a score of −inf, the diagonal covariance) it is one more sweep for the products;
targets that are written out tile by tile take one for each tile's part of the columns, which is one more of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from wassrank.gaussian.passes import Arguments, Moment, Passes, Row, Sum, Turned
from wassrank.processes.passages import Passages
from wassrank.processes.world import World
from wassrank.reference.rows import compute_dtype

from .similarity import hide, prepared, returned

CPU_CHUNK, GPU_CHUNK = 1 << 21, 1 << 24
"""Scores in a chunk: 8 MiB of float32, and as much for their gradient, 256 rows of 8192, which take a tenth longer to
multiply than all rows at once (64 rows half as long again); 64 MiB."""
FEWEST_ROWS = 16
"""Below, multiplying costs more for reading the passages than for its operations."""
COLUMNS = 2048
"""Passages that are converted or normalised at a time."""


class Embeddings(NamedTuple):
    queries: Tensor  # [q, d]
    own: Tensor  # [n, d]: this process's passages
    passages: Passages
    temperature: Tensor | None  # [] of C: what scores are divided by before the passes see them
    exclude: Tensor | None
    cosine: bool
    chunk_rows: int  # 0: as many as seem best
    most_queries: int  # that any of the processes has, all of which go on tour as often as each other


class ChunkedPasses:
    """`wassrank.gaussian.passes.Passes`, of `a` whose scores are a shape without numbers. `out` is the gradient
    for the queries, prepared and over the temperature; the passages' is where the passages are."""

    def __init__(self, a: Arguments, world: World, e: Embeddings, passes: Callable[[Arguments, int], Passes]) -> None:
        self.embeddings, self.of_scores = e, a
        self._a, self._world, self._first, self._passes = a, world, world.first, passes
        self._one_sweep = a.blocks and not a.diagonal and e.exclude is None
        self._R: Tensor | None = None
        self._C = compute_dtype(e.queries.dtype)
        self._moments: Tensor | None = None
        N = a.scores.shape[1]
        numel = CPU_CHUNK if a.scores.is_cpu else GPU_CHUNK
        self._height = max(min(e.chunk_rows or max(numel // max(N, 1), FEWEST_ROWS), e.most_queries), 1)
        self._buffer: Tensor | None = None

    def rows(self) -> tuple[Tensor, Tensor]:
        excess = self._excess() if self._one_sweep else None
        no_means = self._a.scores.new_zeros(2, self._a.scores.shape[1], dtype=torch.float64)
        states, excesses, R = [], [], []
        merged = _Merged(no_means.shape[1], no_means.device)
        refused = None
        for _, passes in self._chunks():
            try:
                state, w = passes.rows()
            except ValueError as wrong:  # other processes go on with their tours, which must not miss this one
                refused = wrong
                continue
            states.append(state)
            excesses.append(w)
            merged.add(passes.moments(state), state)
            if excess is not None:
                R.append(passes.products(state, no_means, excess, None)[1])
        if refused is not None:
            raise refused
        self._moments = merged.moments()
        if excess is not None:
            self._R = _stacked(R, no_means.shape[1] // max(self._a.labels.shape[1], 1), no_means)
        return _stacked(states, len(Row), no_means), _stacked(excesses, self._a.labels.shape[1], no_means)

    def _excess(self) -> Tensor:
        """w of the whole batch, [N]."""
        q, N = self._a.scores.shape
        nothing = self._room(1)[0].zero_()
        own = []
        for top in range(0, q, self._height):
            rows = slice(top, min(top + self._height, q))
            S = nothing[: (rows.stop - top) * N].view(-1, N) if N else nothing.view(0, 0)
            own.append(self._passes(_of_rows(self._a, rows, S), self._first + top).rows)
        return self._world.rows(
            self._world.checked(lambda: (_stacked([rows()[1] for rows in own], 0, nothing),))[0]
        ).view(-1)

    def moments(self, row: Tensor) -> Tensor:
        assert self._moments is not None
        return self._moments

    def products(self, row: Tensor, columns: Tensor, excess: Tensor, flag: Tensor | None) -> tuple[Tensor, Tensor]:
        if self._R is not None:  # what the sums are for is found on the way back
            return row.new_zeros(len(row), len(Sum)), self._R
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
        out: Tensor,  # [q, d]
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
                along_these = along[rows]
                if self._one_sweep:
                    along_these = along_these + passes.along(row[rows], columns)
                passes.gradient(row[rows], columns, along_these, scale, here, begin, end, part)
            of_queries = out[rows]
            for block in self.embeddings.passages.tour_back(self._C, only=False):
                for at, to, p in self._pieces(block.begin, block.passages, begin, end):
                    assert block.gradient is not None
                    of_queries.addmm_(here[:, at:to], p)
                    block.gradient[at - block.begin : to - block.begin].addmm_(here[:, at:to].T, q)

    def finished(self, of_queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients for the queries, for this process's passages, and for the temperature."""
        e = self.embeddings
        t = e.temperature
        of_temperature = of_queries.new_zeros(())
        for begin in range(0, len(e.queries), self._height):
            rows = slice(begin, begin + self._height)
            these = of_queries[rows]
            if t is not None:
                of_temperature -= self._queries(rows).flatten().dot(these.flatten()) / t
                these /= t
            returned(e.queries[rows], these, e.cosine)  # in place
        of_passages = e.passages.gradient()
        for begin in range(0, len(e.own), COLUMNS):
            returned(e.own[begin : begin + COLUMNS], of_passages[begin : begin + COLUMNS], e.cosine)  # in place
        return of_queries.to(e.queries.dtype), of_passages.to(e.own.dtype), of_temperature

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

    def __init__(self, N: int, device: torch.device) -> None:
        self._n = torch.zeros((), dtype=torch.float64, device=device)
        self._sums, self._squares = torch.zeros(2, 2, N, dtype=torch.float64, device=device)

    def add(self, moments: Tensor, row: Tensor) -> None:
        m = (row[:, Row.INVERSE] != 0).sum(dtype=torch.float64)
        sums, squares = moments.view(2, 2, moments.shape[1]).unbind(1)
        apart = sums / m.clamp(min=1) - self._sums / self._n.clamp(min=1)
        both = self._n + m
        self._squares += squares + apart.square() * (self._n * m / both.clamp(min=1))
        self._sums += sums
        self._n = both

    def moments(self) -> Tensor:
        return torch.stack([self._sums, self._squares], 1).view(len(Moment), self._sums.shape[1])


def _stacked(parts: list[Tensor], width: int, like: Tensor) -> Tensor:
    return torch.cat(parts) if parts else like.new_empty(0, width, dtype=torch.float64)


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
