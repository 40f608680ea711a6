"""`wassrank.wasserstein_1d` and `wassrank.wasserstein_1d_plan`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wassrank import ops, reference
from wassrank.backends import resolve_backend
from wassrank.reference.rows import compute_dtype

from . import checks, points


def wasserstein_1d(
    u_values: Tensor,  # [..., n]; packed [T]
    v_values: Tensor,  # [..., m]; packed [T']
    u_weights: Tensor | None = None,  # as u_values
    v_weights: Tensor | None = None,  # as v_values
    p: float = 1,
    *,
    u_mask: Tensor | None = None,
    v_mask: Tensor | None = None,
    u_offsets: Tensor | None = None,
    v_offsets: Tensor | None = None,
    backend: str = "auto",
    validate: bool = False,
) -> Tensor:
    r"""Exact optimal transport between weighted point sets on a line, a batch of pairs at once: W_p^p of each.

    .. math:: W_p^p\Big(\sum_i m_i\,\delta(u_i),\; \sum_j n_j\,\delta(v_j)\Big)
              = \int_0^1 |F_u^{-1}(h) - F_v^{-1}(h)|^p\,dh,

    m and n the weights over their sums. The power is returned, as POT's function of this name does; take
    ``loss ** (1 / p)`` for the distance. For the formula's source and the gradients' derivation see
    `wassrank/reference/wasserstein_1d.py`.

    Args:
        u_values: the one side's points, [..., n], float64, float32, float16 or bfloat16, in any order. With
            `u_offsets` point sets of any sizes one behind the other, [T].
        v_values: the other side's, [..., m]; m may differ from n. If dtypes differ the wider is taken.
        u_weights: [..., n], none negative, in any of those dtypes; normalised row by row, so their scale does not
            matter. None: all points weigh alike.
        v_weights: [..., m], likewise.
        p: order of the distance, any real ≥ 1.
        u_mask: [..., n] bool, True = the point takes part. Others have no mass and a gradient of 0, whatever their
            value and weight.
        v_mask: [..., m], likewise.
        u_offsets: [R + 1] integers: pair r's points are elements u_offsets[r] … u_offsets[r + 1] − 1 of u_values (and
            u_weights, u_mask). Each side may be packed or not by itself.
        v_offsets: [R + 1], likewise.
        backend: "auto", "native", "triton" or "torch"; see `wassrank.resolve_backend`.
        validate: also check what is in the tensors where that is not done anyway. On a GPU it waits for the device.

    Leading dimensions broadcast, all six tensors' (a packed side's is R). A support that all pairs share, such as a
    histogram's bins, is given once, [n], with weights [..., n]: it is then sorted once.

    Returns:
        W_p^p, of the broadcast leading dimensions: float64 for float64 values, else float32. Masses are added up in
        float64 in either case.

        A pair with no point on one of its sides (none there, or all masked) has loss 0 and gradient 0. A pair with an
        infinite value among the points that take part has loss NaN and gradient NaN, whatever that point's weight: no
        difference of infinities has a meaning here.

        Gradients go to values and weights of both sides. The values' is that of the monotone coupling, a subgradient
        where two points of a side coincide (and for p = 1 where points of both do). The weights' is a Kantorovich
        potential, less its mean and over the row's sum of weights (they are normalised); where running masses of both
        sides tie, the mean of the two potentials that closing either side's point first gives: dual feasible, optimal,
        and 0 where both measures are the same. A point of weight 0 has a gradient too: what giving it mass would cost.

        Memory: forward keeps a number for each value and weight that asks for a gradient; the backward scales them.
        The fused backends are differentiable once, "torch" any number of times.

    Raises:
        TypeError: a dtype that cannot be meant (integer values or weights, a mask that is not bool).
        ValueError: lengths, leading dimensions or devices that do not fit, offsets that do not rise from 0 to T, p < 1,
            an unknown backend. On the CPU also NaN among the values, weights that are negative, NaN or infinite, and
            weights that are 0 all along a row; on a GPU, where looking would stall the device, these make their row's
            loss and gradient NaN unless `validate` asks to look.
    """
    p = float(p)
    checks.check_order(p)
    u, v, batch = points.pair(u_values, v_values, u_weights, v_weights, u_mask, v_mask, u_offsets, v_offsets)
    resolved = resolve_backend(u.values.device, backend)
    on_cpu = u.values.device.type == "cpu" and not torch.compiler.is_compiling()
    if validate or (resolved == "torch" and on_cpu):
        points.check_values(u, v)
    if resolved == "torch":
        loss = reference.wasserstein_1d(u.points(), v.points(), p).to(compute_dtype(u.values.dtype))
        return loss.expand(batch.numel()).reshape(batch)
    loss = ops.wasserstein_1d.fused(resolved)(u, v, batch.numel(), p)
    return loss if len(batch) == 1 else loss.reshape(batch)


class Plan(NamedTuple):
    """A coupling's cells: mass[..., k] goes from point u_index[..., k] to point v_index[..., k]. Cells without mass may
    stand among them; the masses of a pair sum to 1."""

    u_index: Tensor  # [..., n + m − 1] int64
    v_index: Tensor
    mass: Tensor  # float64


def wasserstein_1d_plan(
    u_values: Tensor,  # [..., n]
    v_values: Tensor,  # [..., m]
    u_weights: Tensor | None = None,
    v_weights: Tensor | None = None,
    *,
    u_mask: Tensor | None = None,
    v_mask: Tensor | None = None,
) -> Plan:
    """The monotone coupling that `wasserstein_1d` costs, optimal for every p ≥ 1, in sparse form: of its n·m cells no
    more than n + m − 1 have mass. Plain torch on any device; masses are differentiable with respect to weights.

    Args and errors: as `wasserstein_1d`'s; what is in the tensors is checked on the CPU. Where a side is empty all
    masses are 0.
    """
    u, v, batch = points.pair(u_values, v_values, u_weights, v_weights, u_mask, v_mask, None, None)
    if u.values.device.type == "cpu" and not torch.compiler.is_compiling():
        points.check_values(u, v)
    i, j, mass = reference.monotone_plan(u.points(), v.points())
    cells = [t.expand(batch.numel(), t.shape[-1]).reshape(*batch, t.shape[-1]) for t in (i, j, mass)]
    return Plan(*cells)
