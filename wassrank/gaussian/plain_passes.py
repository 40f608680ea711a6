"""The passes in plain torch, whole matrices at a time: what kernels are to do, said briefly. Any device."""

from __future__ import annotations

import torch
from torch import Tensor

from wassrank.codes import Target
from wassrank.reference.rows import gain, stray_grade

from .passes import Arguments, Column, Row, Turned


class PlainPasses:
    """`wassrank.gaussian.passes.Passes`."""

    def __init__(self, a: Arguments, first: int) -> None:
        self.a, self.first = a, first

    def rows(self) -> tuple[Tensor, Tensor]:
        a, first = self.a, self.first
        N, K = a.scores.shape[1], a.labels.shape[1]
        own, asked = _own(a, first), _asked(a, first)
        real = asked & (a.scores != -torch.inf)
        grades = _dense(a, first, a.labels, a.in_batch or 0.0)
        stray = real & (~grades.isfinite() if a.num_levels is None else (grades < 0) | (grades >= a.num_levels))
        if stray.any() and stray.device.type == "cpu":
            raise ValueError(stray_grade(grades[stray][0].item(), a.num_levels))
        top = _highest(a.scores.double(), real)
        total = _weights(a, first, top).sum(1)
        label_top = _highest(grades, real) if a.target_kind == Target.softmax else torch.zeros_like(top)
        gains = torch.where(real, _gains(a, first, label_top), 0.0)
        mass = gains.sum(1)
        sample = (total != 0) & (mass != 0)
        inverse, label_inverse = torch.where(sample, 1 / total, 0.0), torch.where(sample, 1 / mass, 0.0)
        inverse = torch.where(stray.any(1), torch.nan, inverse)
        rest = torch.zeros_like(top)
        if K != N and a.in_batch is not None and a.target is None:
            alone = Arguments(a.scores, torch.full_like(a.labels, a.in_batch, dtype=torch.float64), *a[2:])
            rest = _gain_of(alone, alone.labels[:, :1], label_top)[:, 0] * label_inverse
            rest = torch.where((real & ~own).any(1), rest, 0.0)
        impossible = (asked & ~real).any(1).double()
        row = torch.stack([top, inverse, label_top, label_inverse, rest, impossible], 1)
        if not a.blocks:
            return row, top.new_empty(0, K)
        excess = (gains * label_inverse[:, None] - rest[:, None]).masked_fill(~own | ~asked | ~sample[:, None], 0.0)
        return row, _of_own(excess, first, K).contiguous()

    def moments(self, row: Tensor) -> Tensor:
        sample = (row[:, Row.INVERSE] != 0)[:, None]
        found = []
        for X in (predictions(self.a, self.first, row), targets(self.a, self.first, row)):
            mean = X.sum(0) / sample.sum().clamp(min=1)
            found += [X.sum(0), torch.where(sample, X - mean, 0.0).square().sum(0)]
        return torch.stack(found)

    def products(self, row: Tensor, columns: Tensor, excess: Tensor, flag: Tensor | None) -> tuple[Tensor, Tensor]:
        P = predictions(self.a, self.first, row)
        mean_P, mean_T = columns[:2]
        E = _centred(P, mean_P, row)
        sums = torch.stack([E.square().sum(1), E @ mean_P, P @ (mean_P - mean_T)], 1)
        if not excess.numel():
            return sums, sums.new_empty(len(P), 0)
        if flag is not None and flag:
            return sums, P @ _centred(targets(self.a, self.first, row), mean_T, row).T
        K = self.a.labels.shape[1]
        return sums, (P * excess).view(len(P), -1, K).sum(2)

    def tiles(self, row: Tensor, columns: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
        E_T = _centred(targets(self.a, self.first, row), columns[Column.MEAN_T], row)
        return predictions(self.a, self.first, row)[:, begin:end], E_T[:, begin:end]

    def along(self, row: Tensor, columns: Tensor) -> Tensor:
        P = predictions(self.a, self.first, row)
        mean, _, x, y = columns
        products: Tensor = P * (x + y * (P - mean))
        return products.sum(1)

    def gradient(
        self,
        row: Tensor,
        columns: Tensor,
        along: Tensor,
        scale: Tensor,
        out: Tensor,
        begin: int,
        end: int,
        turned: Turned | Tensor | None,
    ) -> None:
        P = predictions(self.a, self.first, row)[:, begin:end]
        mean, _, x, y = columns[:, begin:end]
        G = x + y * (P - mean) - along[:, None]
        if isinstance(turned, Turned):
            if turned.flag is not None and turned.flag:
                G -= turned.W @ _centred(targets(self.a, self.first, row), columns[Column.MEAN_T], row)
            else:
                K = self.a.labels.shape[1]
                there = turned.everywhere[:, None] + turned.W.repeat_interleave(K, 1) * turned.excess
                G -= there if self.a.mask is None else torch.where(self.a.mask, there, 0.0)
        elif turned is not None:
            G -= turned
        out[:, begin:end] = scale * torch.where(P != 0, P * G, 0.0)


def predictions(a: Arguments, first: int, row: Tensor) -> Tensor:
    inverse = row[:, Row.INVERSE, None]
    P: Tensor = torch.where(inverse == 0, 0.0, _weights(a, first, row[:, Row.TOP]) * inverse)
    return P


def targets(a: Arguments, first: int, row: Tensor) -> Tensor:
    T = _gains(a, first, row[:, Row.LABEL_TOP]) * row[:, Row.LABEL_INVERSE, None]
    real = _asked(a, first) & (a.scores != -torch.inf) & (row[:, Row.INVERSE, None] != 0)
    return torch.where(real, T, 0.0)


def _centred(X: Tensor, mean: Tensor, row: Tensor) -> Tensor:
    return torch.where(row[:, Row.INVERSE, None] != 0, X - mean, 0.0)


def _weights(a: Arguments, first: int, top: Tensor) -> Tensor:
    real = _asked(a, first) & (a.scores != -torch.inf)
    return torch.where(real, ((a.scores.double() - top[:, None]) / a.temperature).exp(), 0.0)


def _highest(values: Tensor, real: Tensor) -> Tensor:
    if values.shape[1] == 0:
        return values.new_zeros(len(values), dtype=torch.float64)
    top = values.double().masked_fill(~real, -torch.inf).amax(1)
    return torch.where(top == -torch.inf, 0.0, top)


def _own(a: Arguments, first: int) -> Tensor:
    (Q, N), K = a.scores.shape, a.labels.shape[1]
    if K == N:
        return torch.ones_like(a.scores, dtype=torch.bool)
    mine = first + torch.arange(Q, device=a.scores.device)
    return torch.arange(N, device=a.scores.device) // max(K, 1) == mine[:, None]


def _asked(a: Arguments, first: int) -> Tensor:
    everyone = torch.ones_like(a.scores, dtype=torch.bool) if a.in_batch is not None else _own(a, first)
    return everyone if a.mask is None else everyone & a.mask


def _dense(a: Arguments, first: int, values: Tensor, otherwise: float) -> Tensor:
    if values.shape == a.scores.shape:
        return values.double()
    dense = torch.full_like(a.scores, otherwise, dtype=torch.float64)
    _of_own(dense, first, values.shape[1]).copy_(values)
    return dense


def _of_own(dense: Tensor, first: int, K: int) -> Tensor:
    """A view of each row's own columns, [Q, K] of [Q, N]."""
    Q, N = dense.shape
    return dense.as_strided((Q, K), (N + K, 1), dense.storage_offset() + first * K)


def _gains(a: Arguments, first: int, label_top: Tensor) -> Tensor:
    if a.target is not None:
        return _dense(a, first, a.target, 0.0)
    return _gain_of(a, _dense(a, first, a.labels, a.in_batch or 0.0), label_top)


def _gain_of(a: Arguments, grades: Tensor, label_top: Tensor) -> Tensor:
    if a.target_kind == Target.softmax:
        temperature = a.label_temperature if a.label_temperatures is None else a.label_temperatures[:, None]
        gains: Tensor = ((grades.double() - label_top[:, None]) / temperature).exp()
        return gains
    return gain(Target(a.target_kind).name, grades.double())
