"""Exact optimal transport between two mass vectors on the same points of a line.

Points x_0 ≤ … ≤ x_{L−1}; masses m (source) and t (target), each summing to one a row; F, G their running sums.

Cost (monotone coupling, optimal for |x − y|^p, p ≥ 1; Santambrogio, "Optimal Transport for Applied
Mathematicians", ch. 2): what lies at height u of the one distribution goes to height u of the other,

    W_p^p = ∫₀¹ |F^{-1}(u) − G^{-1}(u)|^p du,

a sum over the stretches between neighbouring values among all F and G, on each of which both quantiles are constant.

Potential of the source. Move a little mass from level l to level l + 1: F_l falls by that much, and the slice of
the coupling at height F_l, which went to the target quantile τ_l = G^{-1}(F_l), now starts at x_{l+1} instead of
x_l. So

    φ_0 = 0,    φ_{l+1} − φ_l = |x_{l+1} − τ_l|^p − |x_l − τ_l|^p,    ∂W/∂m_l = φ_l  (up to one constant a row).

Where F_l meets a running target mass, the quantile jumps there from τ⁻ (first k with G_k ≥ F_l) to τ⁺ (first k with
G_k > F_l) and W has a kink; any value between the two one-sided increments is a subgradient. We take their
midpoint: it is 0 for p = 1 (the sign of zero), it is 0 at P = T for every p, and it does not depend on which way
rounding fell. A running mass F and a target's G count as equal within tie·min(F, 1 − F) + `ROUNDING`: what summing a
row of exponentials leaves uncertain is relative to the masses on the smaller side, and below that their order is noise.

Potential of the target: the c-transform ψ_k = min_j |x_j − x_k|^p − φ_j, so φ_j + ψ_k ≤ |x_j − x_k|^p everywhere with
equality on the coupling: a dual optimum, hence ∂W/∂t_k = ψ_k. It need not be searched for: along the target's points it
rises by the same rule with the sides exchanged, midpoints included, for at a tie F_l = G_k their increments add up
to c(x_{l+1}, x_{k+1}) − c(x_l, x_k) either way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 1e-15
"""Of running sums in float64, which all masses are turned into."""


@dataclass(frozen=True)
class Transport:
    cost: Tensor  # (...,)    W_p^p
    source_potential: Tensor  # (..., L)  φ
    target_potential: Tensor  # (..., L)  ψ


def level_transport(
    source: Tensor,  # (..., L) masses, each row summing to one
    target: Tensor,  # (..., L) likewise
    position: Tensor,  # (L,) or (..., L) coordinates in ascending order
    p: float,
    tie: float,
) -> Transport:
    """Cost and both Kantorovich potentials of every row. Values only: no gradient flows through this function.
    O(L log L) operations and O(L) memory a row.

    The difference m − t is formed level by level before it is summed, so that F − G keeps the relative precision
    of the masses when they nearly agree.
    """
    source, target = source.detach(), target.detach()
    x = position.expand(source.shape).contiguous()
    if source.shape[-1] == 0:
        return Transport(source.sum(-1), source, target)
    G = target.cumsum(-1)
    F = G + (source - target).cumsum(-1)

    u = torch.cat([torch.zeros_like(F[..., :1]), F, G], -1).sort(-1).values
    middle = 0.5 * (u[..., 1:] + u[..., :-1])
    distance = _quantile(middle, F, source, x) - _quantile(middle, G, target, x)
    cost = (u.diff(dim=-1).clamp(min=0) * distance.abs() ** p).sum(-1)

    phi = _potential(F, G, target, x, p, tie)
    psi = _potential(G, F, source, x, p, tie)
    # At the bottom of the coupling, from both sides' first points with mass, the constraint holds with equality.
    i, j, k = _first(source), _first(target), _last(target)
    psi = psi + ((x.gather(-1, i) - x.gather(-1, j)).abs() ** p - phi.gather(-1, i) - psi.gather(-1, j))
    # Below the target's first point with mass and above its last nothing ties ψ to a coupling, and the c-transform's
    # minimum is at the first and at the last point: c(j, k) − c(j, k') falls with j where k is above k'.
    rank = torch.arange(x.shape[-1], device=x.device)
    psi = torch.where(rank < j, (x - x[..., :1]).abs() ** p - phi[..., :1], psi)
    psi = torch.where(rank > k, (x[..., -1:] - x).abs() ** p - phi[..., -1:], psi)
    undefined = cost.isnan()[..., None]
    return Transport(cost, phi.masked_fill(undefined, torch.nan), psi.masked_fill(undefined, torch.nan))


def _potential(
    F: Tensor,  # (..., L) running masses of the side whose potential it is
    G: Tensor,  # (..., L) running masses of the other side
    other: Tensor,  # (..., L) whose running sums G are
    x: Tensor,  # (..., L)
    p: float,
    tie: float,
) -> Tensor:
    """φ, from φ_0 = 0 up."""
    height = F[..., :-1]
    slack = tie * torch.minimum(height, 1 - height).clamp(min=0) + ROUNDING
    lower, upper = x[..., :-1], x[..., 1:]
    increments = torch.zeros_like(lower)
    for reached in (height - slack, torch.nextafter(height + slack, torch.full_like(height, torch.inf))):
        tau = _quantile(reached, G, other, x)  # τ⁻, then τ⁺
        increments += 0.5 * ((upper - tau).abs() ** p - (lower - tau).abs() ** p)
    return torch.cat([torch.zeros_like(F[..., :1]), increments.cumsum(-1)], -1)


def _quantile(height: Tensor, running: Tensor, masses: Tensor, x: Tensor) -> Tensor:
    """The first point with mass at which the running mass reaches `height`, or else the last with mass."""
    index = torch.searchsorted(running.contiguous(), height.contiguous())
    return x.gather(-1, torch.minimum(torch.maximum(index, _first(masses)), _last(masses)))


def _first(masses: Tensor) -> Tensor:
    """Index of the first point with mass, (..., 1); 0 where there is none."""
    return (masses > 0).int().argmax(-1, keepdim=True)


def _last(masses: Tensor) -> Tensor:
    """Index of the last point with mass, (..., 1); 0 where there is none."""
    rank = torch.arange(1, masses.shape[-1] + 1, device=masses.device)
    return ((masses > 0).int() * rank).argmax(-1, keepdim=True)


def transport_cost(source: Tensor, target: Tensor, position: Tensor, p: float, tie: float) -> Tensor:
    """W_p^p of every row, (...,), differentiable with respect to `source` and `target` (twice: W is piecewise linear
    in the masses, so the potentials are constants of the second derivative)."""
    transport = level_transport(source, target, position, p, tie)
    first_order = transport.source_potential * (source - source.detach())
    first_order = first_order + transport.target_potential * (target - target.detach())
    return transport.cost + first_order.sum(-1)
