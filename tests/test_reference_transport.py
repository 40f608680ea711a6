"""The reference's transport against oracles from outside: SciPy, POT, linear programming, central differences."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance
from torch import Tensor

from wassrank.reference.transport import level_transport, transport_cost

TIE = 8 * torch.finfo(torch.float64).eps


def masses(rows: int, levels: int, seed: int, *, lattice: int | None = None) -> Tensor:
    """Random rows summing to one, some levels empty; on a lattice, running masses of two rows often tie."""
    generator = torch.Generator().manual_seed(seed)
    if lattice:
        weights = torch.randint(0, lattice, (rows, levels), generator=generator).double()
        weights[:, 0] += (weights.sum(-1) == 0).double()
        counts = torch.zeros_like(weights)
        for _ in range(lattice):
            pick = torch.multinomial(weights + 1e-9, 1, generator=generator)
            counts.scatter_add_(1, pick, torch.ones_like(pick, dtype=torch.float64))
        return counts / lattice
    weights = torch.rand(rows, levels, generator=generator, dtype=torch.float64)
    weights = torch.where(torch.rand(rows, levels, generator=generator) < 0.3, 0.0, weights)
    weights[:, 0] += (weights.sum(-1) == 0).double()
    return weights / weights.sum(-1, keepdim=True)


def positions(levels: int, seed: int) -> Tensor:
    steps = torch.rand(levels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    return steps.cumsum(0)


def linear_program(m: Tensor, t: Tensor, ground: Tensor) -> float:
    """The transport problem as it is defined, no matter that points lie on a line."""
    L = len(m)
    rows = np.kron(np.eye(L), np.ones(L))
    columns = np.kron(np.ones(L), np.eye(L))
    solution = linprog(
        ground.numpy().ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.concatenate([m.numpy(), t.numpy()]),
        method="highs",
    )
    assert solution.success
    return float(solution.fun)


def test_p1_equals_scipy() -> None:
    m, t, x = masses(50, 6, 0), masses(50, 6, 1), positions(6, 2)
    got = level_transport(m, t, x, 1.0, TIE).cost
    want = [wasserstein_distance(x, x, a, b) for a, b in zip(m, t, strict=True)]
    assert np.allclose(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0])
def test_cost_equals_pot(p: float) -> None:
    m, t, x = masses(50, 6, 3), masses(50, 6, 4), positions(6, 5)
    got = level_transport(m, t, x, p, TIE).cost
    points = np.repeat(x.numpy()[:, None], 50, 1)
    want = ot.wasserstein_1d(points, points, m.numpy().T, t.numpy().T, p=p)
    assert np.allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", [1.0, 1.3, 2.0, 3.0])
def test_cost_equals_linear_program(p: float) -> None:
    m, t, x = masses(20, 5, 6, lattice=6), masses(20, 5, 7, lattice=6), positions(5, 8)
    ground = (x[:, None] - x[None, :]).abs() ** p
    got = level_transport(m, t, x, p, TIE).cost
    want = [linear_program(a, b, ground) for a, b in zip(m, t, strict=True)]
    assert np.allclose(got, want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("p", [1.0, 1.3, 2.0, 3.0])
@pytest.mark.parametrize("lattice", [None, 4, 8])
def test_potentials_are_dual_feasible_and_close_the_duality_gap_also_at_ties(p: float, lattice: int | None) -> None:
    m, t, x = masses(300, 5, 9, lattice=lattice), masses(300, 5, 10, lattice=lattice), positions(5, 11)
    ground = (x[:, None] - x[None, :]).abs() ** p
    transport = level_transport(m, t, x, p, TIE)
    slack = ground - transport.source_potential[:, :, None] - transport.target_potential[:, None, :]
    assert slack.min() > -1e-12
    dual = (m * transport.source_potential).sum(-1) + (t * transport.target_potential).sum(-1)
    assert (dual - transport.cost).abs().max() < 1e-12


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_ties_give_a_subgradient(p: float) -> None:
    """W(m') ≥ W(m) + ⟨φ, m' − m⟩ for every m', at points m where running masses coincide."""
    m, t, x = masses(40, 4, 12, lattice=4), masses(40, 4, 13, lattice=4), positions(4, 14)
    here = level_transport(m, t, x, p, TIE)
    for seed in range(20):
        elsewhere = masses(40, 4, 100 + seed)
        predicted = here.cost + (here.source_potential * (elsewhere - m)).sum(-1)
        assert (level_transport(elsewhere, t, x, p, TIE).cost - predicted).min() > -1e-12


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_gradients_of_both_sides_equal_central_differences(p: float) -> None:
    generator = torch.Generator().manual_seed(15)
    x = positions(5, 16)
    logits_m = torch.randn(8, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    logits_t = torch.randn(8, 5, generator=generator, dtype=torch.float64, requires_grad=True)

    def cost(a: Tensor, b: Tensor) -> Tensor:
        return transport_cost(a.softmax(-1), b.softmax(-1), x, p, TIE)

    assert torch.autograd.gradcheck(cost, (logits_m, logits_t), eps=1e-7, atol=1e-6)
    assert torch.autograd.gradgradcheck(cost, (logits_m, logits_t), eps=1e-7, atol=1e-6)


@given(
    seed=st.integers(0, 10_000),
    levels=st.integers(1, 8),
    p=st.floats(1, 6),
    shift=st.floats(-10, 10),
    factor=st.floats(0.1, 10),
)
@settings(max_examples=60, deadline=None)
def test_metric_properties(seed: int, levels: int, p: float, shift: float, factor: float) -> None:
    a, b, c = (masses(3, levels, 3 * seed + i) for i in range(3))
    x = positions(levels, seed)

    def distance(m: Tensor, t: Tensor, at: Tensor = x) -> Tensor:
        return level_transport(m, t, at, p, TIE).cost ** (1 / p)

    d = distance(a, b)
    close = {"rtol": 1e-6, "atol": 1e-3 ** min(3, p)}  # a p-th root of rounding is not small
    assert (d >= 0).all()
    torch.testing.assert_close(distance(b, a), d, **close)
    torch.testing.assert_close(distance(a, a), torch.zeros_like(d), rtol=0, atol=1e-15 ** (1 / p) * 10 * levels)
    torch.testing.assert_close(distance(a, b, x + shift), d, **close)
    torch.testing.assert_close(distance(a, b, x * factor), d * factor, **close)
    assert (d <= distance(a, c) + distance(c, b) + 1e-7).all()


def test_potential_is_zero_where_both_sides_agree() -> None:
    m = masses(20, 6, 17)
    for p in (1.0, 2.0, 3.0):
        transport = level_transport(m, m, torch.arange(6, dtype=torch.float64), p, TIE)
        on_support = torch.where(m > 0, transport.source_potential, torch.nan)
        spread = on_support.nan_to_num(-torch.inf).amax(-1) - on_support.nan_to_num(torch.inf).amin(-1)
        full = (m > 0).all(-1)
        assert full.any()
        assert spread[full].max() == 0
