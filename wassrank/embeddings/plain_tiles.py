"""The level losses' tiles in plain torch, on any device: the formulas are wassrank/reference/level_sums.py's."""

from __future__ import annotations

import torch
from torch import Tensor

from wassrank.codes import EXCLUDED, Target
from wassrank.reference import Terms
from wassrank.reference.level_sums import LevelSums, losses
from wassrank.reference.rows import stray_grade

from .arguments import Arguments


class PlainTiles:
    """`wassrank.embeddings.tiles.LossTiles`."""

    def __init__(self, a: Arguments, total: int, first: int) -> None:
        self.a, self.total, self.first = a, total, first
        self.given = a.target_kind == Target.given and bool(a.wasserstein or a.kl)
        self.temperature: float | Tensor = a.temperature if a.learned is None else a.learned.detach().double()
        self.sums = LevelSums.none(len(a.labels), a.num_levels, a.queries.device)
        self.stray = torch.zeros(len(a.labels), dtype=torch.bool, device=a.queries.device)

    def gather(self, scores: Tensor, row: int, column: int) -> None:
        rows = slice(row, row + len(scores))
        S, real, place = self._read(scores, row, column, refuse=True)
        before = LevelSums(*(sums[rows] for sums in self.sums))
        top = torch.maximum(before.top, _highest(S.masked_fill(~real, -torch.inf)))
        reference = torch.where(top == -torch.inf, 0.0, top)
        rise = torch.where(before.top == -torch.inf, 0.0, reference - before.top)[:, None]
        x = torch.where(real, S - reference[:, None], 0.0)
        e = torch.where(real, (x / self.temperature).exp(), 0.0)
        T = torch.where(real, self._target(row, column, scores.shape), 0.0) if self.given else torch.zeros_like(x)

        def by_place(sums: Tensor, values: Tensor) -> Tensor:
            return sums.scatter_add(1, place, values)

        after = LevelSums(
            top=top,
            mass=by_place(before.mass * (-rise / self.temperature).exp(), e),
            number=by_place(before.number, real.double()),
            logit=by_place(before.logit - before.number * rise, x),
            target=by_place(before.target, T),
            target_logit=before.target_logit - before.target.sum(1) * rise[:, 0] + (T * x).sum(1),
            target_log=before.target_log + torch.xlogy(T, T).sum(1),
            named=torch.maximum(
                before.named, _highest(S.masked_fill(~(self._named(row, column, S) & real), -torch.inf))
            ),
        )
        for sums, values in zip(self.sums, after, strict=True):
            sums[rows] = values

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        a, L = self.a, self.a.num_levels
        with torch.enable_grad():
            sums = self.sums
            leaves = (sums.mass, sums.logit, sums.target_logit, sums.named)
            mass, logit, target_logit, named = (t.detach().requires_grad_() for t in leaves)
            loss, empty = losses(
                sums._replace(mass=mass, logit=logit, target_logit=target_logit, named=named),
                Terms(a.wasserstein, a.info_nce, a.kl),
                p=a.p,
                temperature=self.temperature,
                label_temperature=a.label_temperature
                if a.label_temperatures is None
                else a.label_temperatures.double(),
                target=None if self.given else Target(a.target_kind).name,
                in_batch=None if a.in_batch == EXCLUDED else a.in_batch,
                position=None if a.position is None else a.position.to(mass.device),
                named=a.positives is not None,
                dtype=a.computing,
            )
            found = torch.autograd.grad(
                loss.sum(), (mass, logit, target_logit, named), allow_unused=True, materialize_grads=True
            )
        weight = torch.ones_like(loss) if a.weight is None else a.weight.double()
        weight = torch.where(empty & ~self.stray, 0.0, weight)
        of_mass, of_logit, of_target, of_named = (g * (weight if g.dim() == 1 else weight[:, None]) for g in found)
        c, b = of_mass[:, :L] / self.temperature, of_logit[:, :L]
        named_level = self._named_level()
        b_named = b.gather(1, named_level)[:, 0] + of_named
        numbers = [c, b, of_logit[:, L:], b_named[:, None], of_target[:, None], self.sums.top[:, None]]
        state = torch.cat(numbers if a.affine else [c, self.sums.top[:, None]], 1)
        undefined = self.stray | ~loss.isfinite()
        state = torch.where(undefined[:, None], torch.nan, torch.where((weight == 0)[:, None], 0.0, state))
        loss = torch.where(undefined, torch.nan, loss.detach() * weight)
        return loss, weight, state.to(a.computing)

    def gradient(self, scores: Tensor, row: int, column: int, state: Tensor, upstream: Tensor) -> None:
        L, state = self.a.num_levels, state[row : row + len(scores)].double()
        _, real, place = self._read(scores, row, column, refuse=False)
        c = _by_place(state[:, :L], None if self.a.in_batch == EXCLUDED else self.a.in_batch)
        some = (state[:, :-1] != 0).any(1, keepdim=True)
        x = torch.where(real & some, scores.double() - state[:, -1:], -torch.inf)
        G = c.gather(1, place) * (x / self.temperature).exp()
        if self.a.affine:
            b = state[:, L : 2 * L + 1].gather(1, place)
            b = torch.where(self._named(row, column, scores), state[:, 2 * L + 1, None], b)
            if self.given:
                b = b + state[:, 2 * L + 2, None] * self._target(row, column, scores.shape)
            G = G + torch.where(real, b, 0.0)
        G = torch.where(state.isnan().any(1, keepdim=True), torch.nan, G)
        scores.copy_(G * upstream[row : row + len(scores), None])

    def _read(self, scores: Tensor, row: int, column: int, *, refuse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The scores in float64, which of them take part, and each one's place among the level sums."""
        a, L = self.a, self.a.num_levels
        S = scores.double()
        own = self._own(row, column, scores.shape)
        real = ~S.isneginf()
        if a.mask is not None:
            real &= _part(a.mask, row, column, scores.shape)
        if a.in_batch == EXCLUDED:
            real &= own
        grades = self._of_own(a.labels, row, column, scores.shape, 0).long()
        stray = real & own & ((grades < 0) | (grades >= L))
        if refuse:
            if stray.is_cpu and stray.any():
                raise ValueError(stray_grade(grades[stray][0].item(), L))
            self.stray[row : row + len(scores)] |= stray.any(1)
        return S, real, torch.where(own, grades.clamp(0, max(L - 1, 0)), L)

    def _own(self, row: int, column: int, shape: torch.Size) -> Tensor:
        """Which passages' grades the row's labels give, [r, c]."""
        K = self.a.labels.shape[1]
        if self.total == K:
            return torch.ones(shape, dtype=torch.bool, device=self.a.labels.device)
        return self._owner(column, shape[1]) == self._queries(row, shape[0])

    def _queries(self, row: int, rows: int) -> Tensor:
        return self.first + torch.arange(row, row + rows, device=self.a.labels.device)[:, None]

    def _owner(self, column: int, columns: int) -> Tensor:
        return torch.arange(column, column + columns, device=self.a.labels.device) // max(self.a.labels.shape[1], 1)

    def _of_own(self, values: Tensor, row: int, column: int, shape: torch.Size, otherwise: float) -> Tensor:
        """[r, c] of [q, N], or of what own passages have, [q, K]."""
        if values.shape[1] == self.total:
            return _part(values, row, column, shape)
        K = values.shape[1]
        place = torch.arange(column, column + shape[1], device=values.device) % max(K, 1)
        mine = values[row : row + shape[0]].index_select(1, place)
        return torch.where(self._own(row, column, shape), mine, otherwise)

    def _target(self, row: int, column: int, shape: torch.Size) -> Tensor:
        assert self.a.target is not None
        return self._of_own(self.a.target, row, column, shape, 0.0).double()

    def _named(self, row: int, column: int, scores: Tensor) -> Tensor:
        """Which passage is the one that is named as positive, [r, c]."""
        positives, K = self.a.positives, self.a.labels.shape[1]
        if positives is None or not self.a.info_nce:
            return torch.zeros_like(scores, dtype=torch.bool)
        place = positives[row : row + len(scores), None]
        inside = (place >= 0) & (place < K)
        begin = 0 if self.total == K else self._queries(row, len(scores)) * K
        here = torch.arange(column, column + scores.shape[1], device=scores.device)
        return inside & (here == begin + place)

    def _named_level(self) -> Tensor:
        """[q, 1]; 0 where there is none."""
        positives, (q, K) = self.a.positives, self.a.labels.shape
        if positives is None or K == 0:
            return torch.zeros(q, 1, dtype=torch.int64, device=self.a.labels.device)
        return self.a.labels.gather(1, positives.clamp(0, K - 1)[:, None]).long().clamp(0, self.a.num_levels - 1)


def _part(values: Tensor, row: int, column: int, shape: torch.Size) -> Tensor:
    """Of [q, N], or [N] for every row, a tile."""
    columns = slice(column, column + shape[1])
    return values[columns].expand(shape) if values.dim() == 1 else values[row : row + shape[0], columns]


def _by_place(by_level: Tensor, in_batch: int | None) -> Tensor:
    """[r, L + 1] of [r, L]."""
    others = torch.zeros_like(by_level[:, :1]) if in_batch is None else by_level[:, in_batch : in_batch + 1]
    return torch.cat([by_level, others], 1)


def _highest(values: Tensor) -> Tensor:
    return values.amax(1) if values.shape[1] else values.new_full((len(values),), -torch.inf)
