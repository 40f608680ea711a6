"""Targets T [Q, N] read in tiles of columns, in two forms: written out tile by tile, or not at all.

The second is for labels [Q, K] of a query's own passages: T_i = β_i everywhere plus w_ik on its own block. Products
with it cost a pass over the other factor instead of a matrix product; the formulas are those of
wassrank/reference/gaussian_wasserstein.py. In both, E is T less its columns' means over the n samples, and 0 in rows
that are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wassrank.codes import Target
from wassrank.reference.rows import gain, stray_grade

from .columns import Columns


@dataclass(frozen=True)
class Asked:
    """What the labels ask for, as the operator is given it."""

    labels: Tensor  # [Q, N] or [Q, K]
    target: Tensor | None  # [Q, N] or [Q, K]
    kind: int  # of codes.Target
    in_batch: float | None
    num_levels: int | None  # None: labels are floats
    label_temperature: float | Tensor  # a number, or [Q, 1] float64

    def gains(self, grades: Tensor, top: Tensor) -> Tensor:
        """Of a named target, [Q, …] float64; `top` [Q, 1] is what softmax takes off first."""
        if self.kind == Target.softmax:
            return ((grades.double() - top) / self.label_temperature).exp()
        return gain(Target(self.kind).name, grades.double())

    def refuse_strays(self, grades: Tensor, real: Tensor) -> None:
        if self.num_levels is None:
            stray = real & ~grades.isfinite()
        else:
            stray = real & ((grades < 0) | (grades >= self.num_levels))
        if stray.any():
            raise ValueError(stray_grade(grades[stray][0].item(), self.num_levels))


class Tile(Protocol):
    """Some columns of T."""

    mean: Tensor  # [c]
    squares: Tensor  # [c]: Σ_i E_ic²

    def add_products(
        self,
        P: Tensor,  # [Q, c]
        sums: Tensor,  # [Q, Q]
    ) -> None: ...

    def rotated(
        self,
        W: Tensor,  # [Q, Q], whose rows sum to zero
    ) -> Tensor:
        """W E, [Q, c]."""
        ...


class Targets(Protocol):
    kept: Tensor  # [Q, 2] float64: what the backward makes the same targets from, beside the arguments

    def tile(self, columns: slice) -> Tile: ...

    def products(
        self,
        sums: Tensor,  # [Q, Q]: what all tiles have added up
    ) -> Tensor:
        """⟨P_i, E_j⟩, [Q, Q]."""
        ...


class OwnBlocks:
    """T never written out. For labels [Q, K], and a mask, if any, that is the same for every row."""

    def __init__(self, asked: Asked, columns: Columns) -> None:
        labels, self.mask = asked.labels, columns.mask
        real = torch.ones_like(labels, dtype=torch.bool) if self.mask is None else self.mask.view(labels.shape)
        asked.refuse_strays(labels, real)
        if asked.target is not None or columns.own is not None:  # others get nothing
            others = torch.zeros(len(labels), 1, dtype=torch.float64)
        else:
            others = (real.sum() - real.sum(1, keepdim=True)).double()  # how many take part
        if asked.target is not None:
            own, self.rest = asked.target.double(), torch.zeros_like(others)
        else:
            grade = torch.full_like(others, asked.in_batch or 0.0).masked_fill_(others == 0, -torch.inf)
            top = torch.maximum(labels.double().masked_fill(~real, -torch.inf).amax(1, keepdim=True), grade)
            own, self.rest = asked.gains(labels, top), asked.gains(grade, top).masked_fill_(others == 0, 0.0)
        self.own = own.masked_fill(~real, 0.0)
        self.excess = (own - self.rest).masked_fill_(~real, 0.0)
        self.mass = (self.own.sum(1, keepdim=True) + others * self.rest)[:, 0]

    def normalise(
        self,
        sample: Tensor,  # [Q] bool
        n: int,
    ) -> OwnBlocks:
        inverse = torch.where(sample, 1 / self.mass, 0.0)[:, None]
        self.w = torch.where(sample[:, None], self.excess * inverse, 0.0)
        beta = self.rest * inverse
        self.kept = torch.cat([beta, torch.zeros_like(beta)], 1)
        return self._of(sample, n)

    @classmethod
    def from_kept(cls, columns: Columns, w: Tensor, kept: Tensor, sample: Tensor, n: int) -> OwnBlocks:
        """Without going through the labels again."""
        made = cls.__new__(cls)
        made.mask, made.w, made.kept = columns.mask, w, kept
        return made._of(sample, n)

    def _of(self, sample: Tensor, n: int) -> OwnBlocks:
        self.sample, self.n = sample, n
        beta = self.kept[:, 0]
        self.beta_mean = beta.sum() / n
        self.b = torch.where(sample, beta - self.beta_mean, 0.0)
        return self

    def tile(self, columns: slice) -> Tile:
        return _OwnBlocksTile(self, columns)

    def products(self, sums: Tensor) -> Tensor:
        centred = sums - sums.sum(1, keepdim=True) / self.n
        return centred.add_(self.b).mul_(self.sample[:, None]).mul_(self.sample)


class _OwnBlocksTile:
    def __init__(self, targets: OwnBlocks, columns: slice) -> None:
        K = targets.w.shape[1]
        self.queries = slice(columns.start // K, columns.stop // K)
        self.w, self.b = targets.w[self.queries], targets.b
        self.real = None if targets.mask is None else targets.mask[columns].double()
        n, w = targets.n, self.w
        mean, squares = targets.beta_mean, self.b.dot(self.b)
        if self.real is not None:
            mean, squares = mean * self.real, squares * self.real
        self.mean = mean + w.reshape(-1) / n
        self.squares = squares + (w * (w * (1 - 1 / n) + 2 * self.b[self.queries, None])).reshape(-1)

    def add_products(self, P: Tensor, sums: Tensor) -> None:
        torch.sum(P.view(len(P), *self.w.shape) * self.w, dim=2, out=sums[:, self.queries])

    def rotated(self, W: Tensor) -> Tensor:
        own = (W[:, self.queries, None] * self.w).view(len(W), -1)
        everywhere = (W @ self.b)[:, None]
        return own.add_(everywhere if self.real is None else everywhere * self.real)


class WrittenOut:
    """A tile of T made from labels of any shape, with any mask; its products are matrix products."""

    def __init__(self, asked: Asked, columns: Columns) -> None:
        self.asked, self.columns = asked, columns
        self.top = torch.zeros(len(asked.labels), 1, dtype=torch.float64)
        if asked.kind == Target.softmax:
            self.top.fill_(-torch.inf)
        for tile in columns.tiles():
            grades, real = self._grades(tile), self._real(tile)
            asked.refuse_strays(grades, real)
            if asked.kind == Target.softmax:
                highest = grades.double().masked_fill(~real, -torch.inf).amax(1, keepdim=True)
                torch.maximum(self.top, highest, out=self.top)
        self.mass = torch.zeros(len(asked.labels), dtype=torch.float64)
        for tile in columns.tiles():
            self.mass += self._gains(tile).sum(1)

    def normalise(
        self,
        sample: Tensor,  # [Q] bool
        n: int,
    ) -> WrittenOut:
        self.sample, self.n = sample, n
        self.inverse = torch.where(sample, 1 / self.mass, 0.0)[:, None]
        self.kept = torch.cat([self.top, self.inverse], 1)
        return self

    @classmethod
    def from_kept(cls, asked: Asked, columns: Columns, kept: Tensor, sample: Tensor, n: int) -> WrittenOut:
        """Without going through the labels again."""
        made = cls.__new__(cls)
        made.asked, made.columns, made.kept = asked, columns, kept
        made.top, made.inverse = kept[:, :1], kept[:, 1:]
        made.sample, made.n = sample, n
        return made

    def tile(self, columns: slice) -> Tile:
        T = torch.where(self.sample[:, None], self._gains(columns) * self.inverse, 0.0)
        return _WrittenOutTile(T, self.sample, self.n)

    def products(self, sums: Tensor) -> Tensor:
        return sums

    def _own(self, values: Tensor, columns: slice, otherwise: float) -> Tensor:
        """A tile of what may be given for own passages only."""
        if values.shape == self.columns.scores.shape:
            return values[:, columns]
        K = values.shape[1]
        return torch.where(self.columns.owners(columns, K), values.reshape(-1)[columns], otherwise)

    def _grades(self, columns: slice) -> Tensor:
        return self._own(self.asked.labels, columns, self.asked.in_batch or 0)

    def _real(self, columns: slice) -> Tensor:
        possible, real = self.columns.scores[:, columns] != -torch.inf, self.columns.real(columns)
        return possible if real is None else possible & real

    def _gains(self, columns: slice) -> Tensor:
        if self.asked.target is not None:
            gains = self._own(self.asked.target, columns, 0.0).double()
        else:
            gains = self.asked.gains(self._grades(columns), self.top)
        return torch.where(self._real(columns), gains, 0.0)


class _WrittenOutTile:
    def __init__(self, T: Tensor, sample: Tensor, n: int) -> None:
        self.mean = T.sum(0) / n
        self.E = torch.where(sample[:, None], T - self.mean, 0.0)
        self.squares = self.E.square().sum(0)

    def add_products(self, P: Tensor, sums: Tensor) -> None:
        sums.addmm_(P, self.E.T)

    def rotated(self, W: Tensor) -> Tensor:
        return W @ self.E
