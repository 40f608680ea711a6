"""Exact optimal transport between two mass vectors on the same points of a line.

Points x_0 < … < x_{L−1}; masses m (source) and t (target), each summing to one a row; F, G their running sums.

Cost (monotone coupling, optimal for |x − y|^p, p ≥ 1; Santambrogio, "Optimal Transport for Applied
Mathematicians", ch. 2):

    γ_jk = max(0, min(F_j, G_k) − max(F_{j−1}, G_{k−1})),    W_p^p = Σ_jk γ_jk |x_j − x_k|^p.

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
equality on the coupling: a dual optimum, hence ∂W/∂t_k = ψ_k.
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
    position: Tensor,  # (L,) strictly increasing coordinates
    p: float,
    tie: float,
) -> Transport:
    """Cost and both Kantorovich potentials of every row. Values only: no gradient flows through this function.

    The difference m − t is formed level by level before it is summed, so that F − G keeps the relative precision
    of the masses when they nearly agree.
    """
    source, target = source.detach(), target.detach()
    G = target.cumsum(-1)
    F = G + (source - target).cumsum(-1)
    ground = (position[:, None] - position[None, :]).abs() ** p  # (L, L) |x_j − x_k|^p

    F_before, G_before = F - source, G - target
    coupling = torch.minimum(F[..., :, None], G[..., None, :]) - torch.maximum(
        F_before[..., :, None], G_before[..., None, :]
    )
    cost = (coupling.clamp(min=0) * ground).sum((-2, -1))

    slack = (tie * torch.minimum(F, 1 - F).clamp(min=0) + ROUNDING)[..., :-1, None]
    height = F[..., :-1, None]
    last = (target > 0).int().mul(torch.arange(1, len(position) + 1, device=target.device)).argmax(-1)
    increments = torch.zeros_like(F[..., 1:])
    for reached in (G[..., None, :] < height - slack, G[..., None, :] <= height + slack):
        quantile = torch.minimum(reached.sum(-1), last[..., None])  # index of τ⁻, then of τ⁺
        tau = position[quantile]
        increments += 0.5 * ((position[1:] - tau).abs() ** p - (position[:-1] - tau).abs() ** p)
    phi = torch.cat([torch.zeros_like(F[..., :1]), increments.cumsum(-1)], -1)
    phi = torch.where(cost.isnan()[..., None], torch.nan, phi)
    psi = (ground - phi[..., :, None]).amin(-2)
    return Transport(cost, phi, psi)


def transport_cost(source: Tensor, target: Tensor, position: Tensor, p: float, tie: float) -> Tensor:
    """W_p^p of every row, (...,), differentiable with respect to `source` and `target` (twice: W is piecewise linear
    in the masses, so the potentials are constants of the second derivative)."""
    transport = level_transport(source, target, position, p, tie)
    first_order = transport.source_potential * (source - source.detach())
    first_order = first_order + transport.target_potential * (target - target.detach())
    return transport.cost + first_order.sum(-1)
