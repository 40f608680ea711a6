"""W_p^p between weighted points on a line, Σ_i m_i δ(x_i) and Σ_j n_j δ(y_j), row by row, readably.

Masses are weights over their row's sum, or equal. Points in rising order, F_i and G_j the running masses. What lies at
height h of the one distribution goes to height h of the other (optimal for |x − y|^p, p ≥ 1; Santambrogio, "Optimal
Transport for Applied Mathematicians", ch. 2):

    W_p^p = ∫₀¹ |F^{-1}(h) − G^{-1}(h)|^p dh = Σ_cells (h_k − h_{k−1}) |x_{i(k)} − y_{j(k)}|^p.

The heights h_k are all F and G, merged: a staircase of cells (i, j) from (0, 0) up, each step closing a point of one
side. Between two heights both quantiles are constant.

Gradient of the values: the coupling does not change when a point moves a little, so
∂W/∂x_i = Σ_j γ_ij p |x_i − y_j|^{p−1} sign(x_i − y_j), and ∂W/∂y_j the same with the sign turned. Their sum is 0.

Gradient of the masses: where h_k is F_i, it stands in two cells, with c(i, j) − c(i+1, j). So along the staircase

    ψ_0 = c(0, 0) − φ_0,    φ_{i+1} − φ_i = c(i+1, j) − c(i, j),    ψ_{j+1} − ψ_j = c(i, j+1) − c(i, j)

gives φ_i + ψ_j = c(i, j) on every cell of it, and φ + ψ ≤ c everywhere, since c is convex in x − y: Kantorovich
potentials, ∂W/∂m = φ and ∂W/∂n = ψ.

At a tie F_i = G_j the staircase may close the one first or the other; one side then searches left (the first j with
G_j ≥ F_i) and the other right. Either gives potentials. So does their mean, and that is what is taken: it is 0 where
the two measures are one, and does not depend on which of them is called u. Points without mass make ties too.

Weights enter through their shares m_i = a_i / Σ a, so ∂W/∂a_i = (φ_i − Σ_k m_k φ_k) / Σ a: centred.

Autograd does the last three paragraphs by itself, given the staircases; the kernels follow the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

TIE = 1e-14
"""Running masses (float64, up to 1) nearer than this count as equal: about what summing a row leaves uncertain."""


class Points(NamedTuple):
    """One side. Leading dimensions broadcast, against each other and against the other side's."""

    values: Tensor  # (..., n)
    weights: Tensor | None  # (..., n), none negative; None: all alike
    mask: Tensor | None  # (..., n) bool, True = takes part


@dataclass(frozen=True)
class Line:
    """Points in rising order; behind those that take part the last of them again, without mass."""

    x: Tensor  # (..., n) float64
    height: Tensor  # (..., n) float64: running masses, 1 from the last point with mass on
    order: Tensor  # (..., n): where each point came from
    empty: Tensor  # (..., 1): none takes part

    def expand(self, batch: torch.Size) -> Line:
        return Line(*(t.expand(*batch, t.shape[-1]) for t in (self.x, self.height, self.order, self.empty)))


class Coupling(NamedTuple):
    """The cells of a staircase: points of either side by their place in the rising order. Of the n + m the last repeats
    the one before, and has no mass (but a derivative)."""

    i: Tensor  # (..., n + m)
    j: Tensor
    mass: Tensor


def wasserstein_1d(u: Points, v: Points, p: float) -> Tensor:
    """W_p^p, of the leading dimensions, float64; 0 where a side is empty, NaN where a value that takes part is
    infinite. Differentiable any number of times. Largest temporaries: some twenty tensors (..., n + m)."""
    first, second = both_lines(u, v)
    cost = torch.zeros_like(first.x[..., 0])
    for u_closes_first in (True, False):
        i, j, mass = coupling(first, second, u_closes_first)
        distance = (first.x.gather(-1, i) - second.x.gather(-1, j)).abs()
        cost = cost + 0.5 * (mass * distance**p).sum(-1)
    somewhere = first.x.isfinite().all(-1) & second.x.isfinite().all(-1)
    cost = cost * torch.where(somewhere, 1.0, torch.nan)  # and so is the gradient
    return torch.where((first.empty | second.empty).squeeze(-1), 0.0, cost)


def both_lines(u: Points, v: Points) -> tuple[Line, Line]:
    first, second = line(u), line(v)
    batch = torch.broadcast_shapes(first.x.shape[:-1], second.x.shape[:-1])
    return first.expand(batch), second.expand(batch)


def line(points: Points) -> Line:
    if points.values.shape[-1] == 0:  # one point that takes no part
        values, weights, mask = points
        mask = torch.zeros_like(values, dtype=torch.bool) if mask is None else mask
        weights = None if weights is None else F.pad(weights, (0, 1))
        return line(Points(F.pad(values, (0, 1)), weights, F.pad(mask, (0, 1))))
    given = [t for t in points if t is not None]
    values, *_ = (t.expand(torch.broadcast_shapes(*(t.shape for t in given))) for t in given)
    real = torch.ones_like(values, dtype=torch.bool) if points.mask is None else points.mask.expand(values.shape)
    x, order = values.double().masked_fill(~real, torch.inf).sort(dim=-1, stable=True)
    count = real.sum(-1, keepdim=True)
    rank = torch.arange(values.shape[-1], device=values.device)
    last = (count - 1).clamp(min=0)
    x = torch.where(rank < count, x, x.gather(-1, last))
    x = torch.where(count == 0, 0.0, x)
    if points.weights is None:
        height = (rank + 1).double() / count.clamp(min=1)
    else:
        weights = torch.where(real, points.weights.double(), 0.0).gather(-1, order)
        height = weights.cumsum(-1)
        height = height / torch.where(count == 0, 1.0, height[..., -1:])
        last = ((weights > 0) * rank).amax(-1, keepdim=True)
    # To the last bit 1 from the last point with mass on, or rounding would send some to points behind it. As a function
    # of the weights it stays what it was: points behind it have a potential.
    height = height + torch.where(rank >= last, 1.0 - height, 0.0).detach()
    return Line(x, height, order, count == 0)


def coupling(first: Line, second: Line, u_closes_first: bool) -> Coupling:
    """The staircase that at ties closes u's points first, or v's."""
    n, m = first.x.shape[-1], second.x.shape[-1]
    nudged = first.height - TIE if u_closes_first else first.height + TIE
    merged = torch.cat([nudged, second.height], -1).argsort(dim=-1, stable=True)
    closes_u = (merged < n).long()
    closes_v = 1 - closes_u
    height = torch.cat([first.height, second.height], -1).gather(-1, merged)
    mass = height.diff(dim=-1, prepend=torch.zeros_like(height[..., :1]))
    i = (closes_u.cumsum(-1) - closes_u).clamp(max=n - 1)
    j = (closes_v.cumsum(-1) - closes_v).clamp(max=m - 1)
    return Coupling(i, j, mass)


def monotone_plan(u: Points, v: Points) -> Coupling:
    """The n + m − 1 cells by the points' own places; those of an empty side have no mass."""
    first, second = both_lines(u, v)
    i, j, mass = coupling(first, second, u_closes_first=True)
    mass = torch.where(first.empty | second.empty, 0.0, mass.clamp(min=0))  # below 0: a tie's rounding
    cells = [first.order.gather(-1, i), second.order.gather(-1, j), mass]
    n, m = u.values.shape[-1], v.values.shape[-1]
    i, j, mass = (t[..., : max(n + m - 1, 0)] for t in cells)
    return Coupling(i, j, mass)
