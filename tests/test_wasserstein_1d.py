"""`wasserstein_1d` against oracles from outside (SciPy, POT, linear programming, central differences), its potentials
against duality, its properties, and the native kernels against the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance
from test_cpu_kernels import offered_here
from torch import Tensor

import wassrank
from wassrank import _C, wasserstein_1d_plan
from wassrank.arguments import PairArguments
from wassrank.ops import direct
from wassrank.ops.wasserstein_1d import step_work

wasserstein_1d: Any = wassrank.wasserstein_1d  # tests unpack lists into its first arguments
BACKENDS = ["native", "torch"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_p = pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])


def problem(
    rows: int, n: int, m: int, seed: int = 0, dtype: torch.dtype = torch.float64, weighted: bool = True
) -> list[Tensor]:
    """Values of both sides and weights of both, that ask for gradients."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return torch.rand(rows, count, generator=generator, dtype=torch.float64)

    values = [4 * draw(n) - 2, 5 * draw(m) - 2]
    tensors = [*values, draw(n) + 0.01, draw(m) + 0.01] if weighted else values
    return [t.to(dtype).requires_grad_() for t in tensors]


def step(inputs: list[Tensor], **options: Any) -> list[Tensor]:
    """The losses, and the gradients of their sum."""
    losses = wasserstein_1d(*inputs, **options)
    asking = [t for t in inputs if t is not None and t.requires_grad]
    return [losses.detach(), *torch.autograd.grad(losses.sum(), asking)]


def detached(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


# Values.


@every_backend
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (6, 6), (7, 11), (40, 1)])
def test_p1_equals_scipy(n: int, m: int, weighted: bool, backend: str) -> None:
    inputs = problem(9, n, m, weighted=weighted)
    rows = zip(*(t.detach().numpy() for t in inputs), strict=True)
    want = [wasserstein_distance(*row) for row in rows]
    assert np.allclose(wasserstein_1d(*inputs, backend=backend).detach(), want, rtol=1e-12, atol=1e-14)


@every_backend
@every_p
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("n", "m"), [(6, 6), (7, 11)])
def test_equals_pot(n: int, m: int, weighted: bool, p: float, backend: str) -> None:
    inputs = problem(9, n, m, seed=1, weighted=weighted)
    x, y, *weights = (t.detach().numpy().T for t in inputs)
    want = ot.wasserstein_1d(x, y, *(w / w.sum(0) for w in weights), p=p)
    assert np.allclose(wasserstein_1d(*inputs, p=p, backend=backend).detach(), want, rtol=1e-9, atol=1e-12)


def linear_program(x: Tensor, y: Tensor, a: Tensor, b: Tensor, p: float) -> float:
    """The transport problem as it is defined, no matter that points lie on a line."""
    n, m = len(x), len(y)
    ground = (x[:, None] - y[None, :]).abs() ** p
    marginals = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    masses = np.concatenate([(a / a.sum()).numpy(), (b / b.sum()).numpy()])
    solution = linprog(ground.numpy().ravel(), A_eq=marginals, b_eq=masses, method="highs")
    assert solution.success
    return float(solution.fun)


@every_backend
@every_p
def test_equals_a_linear_program(p: float, backend: str) -> None:
    for tensors in (problem(10, 5, 4, seed=2), tied("repeated values", 10, 5, 4)):
        x, y, a, b = (t.detach() for t in tensors)
        want = [linear_program(*row, p) for row in zip(x, y, a, b, strict=True)]
        assert np.allclose(wasserstein_1d(x, y, a, b, p, backend=backend), want, rtol=1e-8, atol=1e-10)


@every_p
def test_the_plan_has_both_marginals_and_the_cost(p: float) -> None:
    for weighted in (True, False):
        x, y, *weights = (t.detach() for t in problem(6, 7, 5, seed=3, weighted=weighted))
        plan = wasserstein_1d_plan(x, y, *weights)
        assert plan.mass.shape == (6, 11)
        assert plan.mass.min() >= 0
        cost = plan.mass * (x.gather(-1, plan.u_index) - y.gather(-1, plan.v_index)).abs() ** p
        torch.testing.assert_close(cost.sum(-1), wasserstein_1d(x, y, *weights, p=p), rtol=1e-12, atol=1e-14)
        a, b = weights if weighted else (torch.ones_like(x), torch.ones_like(y))
        for index, w in ((plan.u_index, a), (plan.v_index, b)):
            got = torch.zeros_like(w).scatter_add_(-1, index, plan.mass)
            torch.testing.assert_close(got, w / w.sum(-1, keepdim=True), rtol=1e-12, atol=1e-14)


# Gradients away from ties.


@every_backend
@every_p
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("n", "m"), [(4, 6), (5, 5)])
def test_gradients_equal_central_differences(n: int, m: int, weighted: bool, p: float, backend: str) -> None:
    inputs = problem(3, n, m, seed=4, weighted=weighted)
    assert torch.autograd.gradcheck(lambda *t: wasserstein_1d(*t, p=p, backend=backend), inputs)


def test_the_reference_is_differentiable_twice() -> None:
    inputs = problem(2, 4, 5, seed=5)
    assert torch.autograd.gradgradcheck(lambda *t: wasserstein_1d(*t, p=3, backend="torch"), inputs)


def test_a_second_derivative_of_the_kernels_is_refused_with_the_remedy() -> None:
    inputs = problem(2, 4, 5, seed=5)
    gradient = torch.autograd.grad(wasserstein_1d(*inputs, p=2, backend="native").sum(), inputs, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='torch'"):
        gradient[0].sum().backward()


@every_backend
def test_only_what_asks_gets_a_gradient(backend: str) -> None:
    full = step(problem(3, 5, 6, seed=6), p=2, backend=backend)
    for k in range(4):
        inputs = problem(3, 5, 6, seed=6)
        for other in range(4):
            inputs[other].requires_grad_(other == k)
        loss, gradient = step(inputs, p=2, backend=backend)
        assert torch.equal(loss, full[0])
        assert torch.equal(gradient, full[1 + k])
    with torch.no_grad():
        assert torch.equal(wasserstein_1d(*problem(3, 5, 6, seed=6), p=2, backend=backend), full[0])


# Ties: any subgradient is a pair of dual potentials.

TIES = ["uniform weights", "zero weights", "one-hot weights", "repeated values", "identical", "of one side"]


def tied(kind: str, rows: int, n: int, m: int, seed: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y, a, b = (t.detach().clone() for t in problem(rows, n, m, seed=seed))
    if kind == "uniform weights":
        a, b = torch.ones_like(a), torch.full_like(b, 0.1)
    if kind in ("zero weights", "repeated values"):
        a, b = (torch.randint(0, 3, w.shape, generator=generator).double() for w in (a, b))
        a[:, 0] += a.sum(-1) == 0
        b[:, 0] += b.sum(-1) == 0
    if kind == "repeated values":
        x, y = x.round(), y.round()
    if kind == "one-hot weights":
        a, b = (torch.eye(w.shape[1], dtype=w.dtype)[torch.arange(rows) % w.shape[1]] for w in (a, b))
    if kind == "identical":
        order = torch.randperm(n, generator=generator)
        y, b = x[:, order], a[:, order]
    if kind == "of one side":  # every point of v, of which there are more, ends where one of u does, or within it
        a, b = torch.ones_like(a), torch.ones_like(b)
        y, b = y[:, : m // n * n], b[:, : m // n * n]
    return [t.requires_grad_() for t in (x, y, a, b)]


@every_backend
@every_p
@pytest.mark.parametrize("kind", TIES)
@pytest.mark.parametrize(("n", "m"), [(6, 6), (5, 11), (2, 3)])
def test_potentials_are_dual_feasible_and_close_the_gap_at_ties(
    kind: str, n: int, m: int, p: float, backend: str
) -> None:
    x, y, a, b = inputs = tied(kind, 24, n, m)
    loss, _, _, of_a, of_b = step(inputs, p=p, backend=backend)
    # Gradients are centred potentials over the weights' sums: the two means together are W.
    phi, psi = of_a * a.sum(-1, keepdim=True), of_b * b.sum(-1, keepdim=True)
    mass, other = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    for masses, potential in ((mass, phi), (other, psi)):
        assert (masses * potential).sum(-1).abs().max() < 1e-12
    ground = (x[:, :, None] - y[:, None, :]).abs() ** p
    slack = ground - phi[:, :, None] - psi[:, None, :] - loss[:, None, None]
    assert slack.min() > -1e-11
    plan = wasserstein_1d_plan(x, y, a, b)
    on_plan = slack.flatten(1).gather(1, plan.u_index * ground.shape[2] + plan.v_index)
    assert (plan.mass * on_plan).sum(-1).abs().max() < 1e-12


@every_backend
@every_p
def test_no_gradient_between_identical_measures(p: float, backend: str) -> None:
    inputs = tied("identical", 5, 9, 9)
    for got in step(inputs, p=p, backend=backend):
        assert got.abs().max() < 1e-13


@every_p
@pytest.mark.parametrize("kind", TIES)
def test_at_ties_the_kernels_take_the_subgradient_the_reference_takes(kind: str, p: float) -> None:
    for n, m in ((6, 6), (5, 11), (40, 64)):
        inputs = tied(kind, 24, n, m)
        got, want = (step(inputs, p=p, backend=backend) for backend in BACKENDS)
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


# Properties.

distances = given(
    seed=st.integers(0, 10_000), n=st.integers(1, 9), m=st.integers(1, 9), p=st.sampled_from([1.0, 1.7, 2.0, 3.0])
)
few = settings(max_examples=40, deadline=None)


@distances
@few
def test_translation_scaling_and_permutation(seed: int, n: int, m: int, p: float) -> None:
    inputs = problem(3, n, m, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    x, y, a, b = (t.detach() for t in inputs)
    for backend in BACKENDS:
        loss, of_x, of_y, of_a, of_b = step(inputs, p=p, backend=backend)
        moved = detached([2 * x[:, order] + 1, 2 * y + 1, 3 * a[:, order], b])
        got = step(moved, p=p, backend=backend)
        want = [2**p * loss, 2 ** (p - 1) * of_x[:, order], 2 ** (p - 1) * of_y, 2**p / 3 * of_a[:, order], 2**p * of_b]
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
        assert (of_x.sum(-1) + of_y.sum(-1)).abs().max() < 1e-11


@distances
@few
def test_symmetry_and_w1_below_w2(seed: int, n: int, m: int, p: float) -> None:
    x, y, a, b = inputs = problem(3, n, m, seed)
    for backend in BACKENDS:
        loss, of_x, of_y, of_a, of_b = step(inputs, p=p, backend=backend)
        back = step([y, x, b, a], p=p, backend=backend)
        for one, other in zip(back, [loss, of_y, of_x, of_b, of_a], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        first, second = (wasserstein_1d(*inputs, p=q, backend=backend).detach() for q in (1, 2))
        assert (first - second.sqrt()).max() < 1e-12


@distances
@few
def test_triangle_inequality_of_the_root(seed: int, n: int, m: int, p: float) -> None:
    x, y, a, b = (t.detach() for t in problem(4, n, m, seed))
    z, c = (t.detach() for t in problem(4, n, 5, seed + 1)[1::2])
    for backend in BACKENDS:
        sides = [((x, y), (a, b)), ((y, z), (b, c)), ((x, z), (a, c))]
        xy, yz, xz = (wasserstein_1d(*v, *w, p=p, backend=backend) ** (1 / p) for v, w in sides)
        assert (xz - xy - yz).max() < 1e-12


@distances
@few
def test_splitting_a_point_and_adding_one_without_weight_change_nothing(seed: int, n: int, m: int, p: float) -> None:
    x, y, a, b = (t.detach() for t in problem(3, n, m, seed))
    split = torch.cat([x, x[:, :1]], -1), torch.cat([0.3 * a[:, :1], a[:, 1:], 0.7 * a[:, :1]], -1)
    added = torch.cat([x, torch.full_like(x[:, :1], 1e9)], -1), torch.cat([a, torch.zeros_like(a[:, :1])], -1)
    for backend in BACKENDS:
        want = wasserstein_1d(x, y, a, b, p, backend=backend)
        for values, weights in (split, added):
            got = wasserstein_1d(values, y, weights, b, p, backend=backend)
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 40), m=st.integers(1, 40), p=st.sampled_from([1.0, 1.7, 2.0]),
    kind=st.sampled_from(["apart", *TIES]), keep=st.sampled_from([1.0, 0.6]), weighted=st.booleans(),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_kernels_equal_the_reference(
    seed: int, n: int, m: int, p: float, kind: str, keep: float, weighted: bool
) -> None:
    inputs = problem(4, n, m, seed) if kind == "apart" else tied(kind, 4, n, max(n, m), seed)
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"p": p}
    if keep < 1:
        masks = [torch.rand(t.shape, generator=generator) < keep for t in inputs[:2]]
        options |= {"u_mask": masks[0], "v_mask": masks[1]}
        with torch.no_grad():  # what is left has a weight
            for weights in inputs[2:]:
                weights += 0.5
    if not weighted:
        inputs = inputs[:2]
    got, want = (step(inputs, **options, backend=backend) for backend in BACKENDS)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


# Layouts.


@every_backend
@pytest.mark.parametrize("weighted", [True, False])
def test_packed_padded_and_one_by_one_are_the_same(weighted: bool, backend: str) -> None:
    lengths, others = [4, 1, 0, 7, 30, 3], [5, 2, 4, 7, 0, 90]
    total, other_total = sum(lengths), sum(others)
    inputs = [t[0].detach().requires_grad_() for t in problem(1, total, other_total, seed=8, weighted=weighted)]
    u_offsets, v_offsets = (torch.tensor([0, *of]).cumsum(0) for of in (lengths, others))
    shared: dict[str, Any] = {"p": 2, "backend": backend}
    packed = step(inputs, u_offsets=u_offsets, v_offsets=v_offsets, **shared)

    sizes = [lengths, others, lengths, others][: len(inputs)]
    apart = [t.detach().split(of) for t, of in zip(inputs, sizes, strict=True)]
    pad = [torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=7.0) for parts in apart]
    masks = [torch.arange(max(of)) < torch.tensor(of)[:, None] for of in (lengths, others)]
    padded = step([t.requires_grad_() for t in pad], u_mask=masks[0], v_mask=masks[1], **shared)
    torch.testing.assert_close(padded[0], packed[0], rtol=1e-13, atol=0)
    for got, want, mask in zip(padded[1:], packed[1:], [*masks, *masks], strict=False):
        assert (got[~mask] == 0).all()
        torch.testing.assert_close(got[mask], want, rtol=1e-12, atol=1e-15)

    gradients = [g.split(of) for g, of in zip(packed[1:], sizes, strict=True)]
    for i, row in enumerate(zip(*apart, strict=True)):
        if len(row[0]) and len(row[1]):
            alone = step([t.clone().requires_grad_() for t in row], **shared)
            torch.testing.assert_close(packed[0][i], alone[0], rtol=1e-13, atol=0)
            for parts, gradient in zip(gradients, alone[1:], strict=True):
                torch.testing.assert_close(parts[i], gradient, rtol=1e-12, atol=1e-15)
        else:
            assert packed[0][i] == 0
            assert all((parts[i] == 0).all() for parts in gradients)


@every_backend
def test_a_support_given_once_and_other_broadcasts(backend: str) -> None:
    x, y, a, b = (t.detach() for t in problem(6, 8, 8, seed=9))
    grid = x[0].clone()
    once = [t.clone().requires_grad_() for t in (grid, grid, a, b)]
    spread = [t.clone().requires_grad_() for t in (grid.expand(6, 8), grid.expand(6, 8), a, b)]
    loss, *gradients = step(once, p=2, backend=backend)
    want_loss, *want = step(spread, p=2, backend=backend)
    torch.testing.assert_close(loss, want_loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradients[:2], [g.sum(0) for g in want[:2]], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(gradients[2:], want[2:], rtol=1e-12, atol=1e-15)

    u, v, w = x.view(3, 2, 8), y[:4].view(4, 1, 1, 8), a[:2].clone()
    inputs = [t.clone().requires_grad_() for t in (u, v, w)]
    got = wasserstein_1d(*inputs, p=1.5, backend=backend)
    assert got.shape == (4, 3, 2)
    for i in range(4):
        for j in range(3):
            for k in range(2):
                alone = wasserstein_1d(u[j, k], v[i, 0, 0], w[k], p=1.5, backend=backend)
                torch.testing.assert_close(got[i, j, k].detach(), alone, rtol=1e-12, atol=0)
    assert [g.shape for g in torch.autograd.grad(got.sum(), inputs)] == [t.shape for t in inputs]


@every_backend
def test_rows_with_nothing_on_a_side(backend: str) -> None:
    x, y, a, b = problem(3, 4, 5, seed=10)
    mask = torch.tensor([[True] * 4, [False] * 4, [True] * 4])
    loss, *gradients = step([x, y, a, b], u_mask=mask, backend=backend)
    assert loss[1] == 0
    assert (loss[::2] > 0).all()
    assert all((g[1] == 0).all() and g.isfinite().all() for g in gradients)
    for shape in ((0, 4), (3, 0)):
        u = torch.zeros(shape, requires_grad=True)
        nothing, gradient = step([u, torch.zeros(shape[0], 5)], backend=backend)
        assert torch.equal(nothing, torch.zeros(shape[0]))
        assert gradient.shape == shape


@every_backend
def test_values_at_infinity_make_their_row_nan(backend: str) -> None:
    for infinity in (torch.inf, -torch.inf):
        inputs = problem(3, 4, 5, seed=11)
        with torch.no_grad():
            inputs[0][1, 2] = infinity
        loss, *gradients = step(inputs, p=2, backend=backend)
        assert loss.isnan().tolist() == [False, True, False]
        assert all(g[1].isnan().all() and g[::2].isfinite().all() for g in gradients)
        loss, *gradients = step(inputs, p=2, u_mask=inputs[0].isfinite(), backend=backend)
        assert loss.isfinite().all()
        assert all(g.isfinite().all() for g in gradients)


# Precision.


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("weighted", [True, False])
def test_float32_at_65536_points(weighted: bool, p: float) -> None:
    for m in (65536, 40000):
        inputs = problem(2, 65536, m, seed=12, dtype=torch.float32, weighted=weighted)
        got = step(inputs, p=p, backend="native")
        want = step(detached([t.double() for t in inputs]), p=p, backend="torch")
        torch.testing.assert_close(got[0].double(), want[0], rtol=1e-6, atol=0)
        for one, other in zip(got[1:], want[1:], strict=True):
            assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_backend
def test_half_values_are_read_as_they_are(dtype: torch.dtype, backend: str) -> None:
    inputs = [t.detach().to(dtype).requires_grad_() for t in problem(4, 30, 50, seed=13)]
    loss, *gradients = step(inputs, p=2, backend=backend)
    assert loss.dtype == torch.float32
    want_loss, *want = step(detached([t.double() for t in inputs]), p=2, backend="torch")
    torch.testing.assert_close(loss.double(), want_loss, rtol=1e-6, atol=0)
    for one, other in zip(gradients, want, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


def test_dtypes_meet_in_the_wider() -> None:
    x, y, a, b = problem(2, 4, 5, seed=14)
    loss, *gradients = step([x.detach().float().requires_grad_(), y, a.detach().bfloat16().requires_grad_(), b])
    assert loss.dtype == torch.float64
    assert [g.dtype for g in gradients] == [torch.float32, torch.float64, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("n", [1_000_000])
def test_a_million_points(n: int) -> None:
    x, y, a, b = problem(1, n, n // 3, seed=15, dtype=torch.float32)
    got = step([x, y, a, b], backend="native")
    want = wasserstein_distance(*(t.detach().double()[0].numpy() for t in (x, y, a, b)))
    assert abs(float(got[0]) - want) <= 1e-6 * want
    assert all(g.isfinite().all() for g in got)
    shares = [g.double() @ w.detach().double().T for g, w in ((got[3], a), (got[4], b))]
    assert all(abs(float(s)) < 1e-4 for s in shares)  # centred


# The operators.


def arguments(weighted: bool = True, packed: bool = False, masked: bool = False) -> PairArguments:
    x, y, *weights = (t.detach() for t in problem(3, 6, 4, seed=16, weighted=weighted))
    a, b = weights if weighted else (None, None)
    made = PairArguments(x, y, a, b, pairs=3, wanted=0b1111 if weighted else 0b11, p=2.0)
    if masked:
        made = made._replace(u_mask=torch.rand(3, 6) > 0.3, v_mask=torch.rand(1, 4) > 0.3)
    if packed:
        flat: dict[str, Any] = {k: t.flatten() for k, t in made._asdict().items() if isinstance(t, Tensor)}
        offsets = {"u_offsets": torch.tensor([0, 3, 3, 18]), "v_offsets": torch.tensor([0, 1, 8, 12])}
        made = made._replace(**flat | offsets)
    return made


@pytest.mark.parametrize("made", [{}, {"weighted": False}, {"packed": True}, {"masked": True}], ids=str)
def test_opcheck(made: dict[str, bool]) -> None:
    a = arguments(**made)
    leaves = [t if t is None else t.clone().requires_grad_() for t in a[:4]]
    torch.library.opcheck(torch.ops.wassrank.wasserstein_1d.default, (*leaves, *a[4:]))
    loss, *kept = torch.ops.wassrank.wasserstein_1d.default(*a)
    b = (torch.ones_like(loss), *a[:4], a.u_offsets, a.v_offsets, *kept, a.wanted)
    torch.library.opcheck(torch.ops.wassrank.wasserstein_1d_backward.default, b)


@pytest.mark.parametrize("made", [{}, {"weighted": False}, {"packed": True}, {"masked": True}], ids=str)
def test_direct_calls_are_the_operators(made: dict[str, bool]) -> None:
    a = arguments(**made)
    for one, other in zip(direct.wasserstein_1d(*a), torch.ops.wassrank.wasserstein_1d(*a), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("made", [{}, {"weighted": False}, {"packed": True}, {"masked": True}], ids=str)
def test_work_is_what_is_read_kept_and_written(made: dict[str, bool]) -> None:
    a = arguments(**made)
    given = [t for t in a if isinstance(t, Tensor)]
    loss, *kept = torch.ops.wassrank.wasserstein_1d(*a)
    kept_bytes = sum(t.nbytes for t in kept)
    gradients = sum(t.nbytes for t in a[:4] if isinstance(t, Tensor))
    work = step_work(a)
    assert work.bytes == sum(t.nbytes for t in given) + 2 * kept_bytes + gradients + 2 * loss.nbytes
    assert work.extra_bytes == kept_bytes


def test_compiles_into_one_graph() -> None:
    compiled = torch.compile(lambda *t: wasserstein_1d(*t, p=2), fullgraph=True)
    inputs = problem(3, 6, 7, seed=17)
    loss = compiled(*inputs)
    got = [loss.detach(), *torch.autograd.grad(loss.sum(), inputs)]
    for one, other in zip(got, step(inputs, p=2), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0)


@pytest.mark.parametrize("instruction_set", _C.build_info()["cpu_instruction_sets"])
def test_every_instruction_set_equals_the_reference(instruction_set: str) -> None:
    """In a process of its own: the choice is made once, at first use."""
    if instruction_set not in offered_here():
        pytest.skip(f"this processor has no {instruction_set}")
    script = (
        "import torch, test_wasserstein_1d as t\n"
        "from wassrank import _C\n"
        f"assert _C.build_info()['cpu_instruction_set_in_use'] == '{instruction_set}'\n"
        "t.test_kernels_equal_the_reference()\n"
        "for p in (1.0, 1.5, 2.0):\n"
        "    for kind in t.TIES:\n"
        "        t.test_at_ties_the_kernels_take_the_subgradient_the_reference_takes(kind, p)\n"
        "    for dtype in (torch.float16, torch.bfloat16):\n"
        "        t.test_half_values_are_read_as_they_are(dtype, 'native')\n"
        "t.test_float32_at_65536_points(True, 2.0)\n"
    )
    environment = os.environ | {"WASSRANK_CPU_ISA": instruction_set, "PYTHONPATH": PATHS}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


PATHS = os.pathsep.join(str(path) for path in (Path(__file__).parent, Path(__file__).parent.parent))


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    inputs = problem(30, 3000, 4000, seed=18, dtype=torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(step(inputs, p=1.5))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


def test_memory_is_a_number_kept_and_a_gradient_for_each_input() -> None:
    from torch.profiler import ProfilerActivity, profile

    inputs = problem(16, 16384, 16384, seed=19, dtype=torch.float32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        wasserstein_1d(*inputs).sum().backward()
    allocated = sum(max(0, e.self_cpu_memory_usage) for e in trace.key_averages())
    given_bytes = sum(t.nbytes for t in inputs)
    assert 2 * given_bytes <= allocated <= 2.01 * given_bytes


# Bad input.


def bad(change: dict[str, Any]) -> dict[str, Any]:
    x, y, a, b = (t.detach() for t in problem(3, 4, 5, seed=20))
    return {"u_values": x, "v_values": y, "u_weights": a, "v_weights": b} | change


def at(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.detach().clone()
    changed[1, 2] = value
    return changed


GOOD = bad({})


@every_backend
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"u_weights": at(GOOD["u_weights"], -0.1)}, r"u_weights' row 1 holds a weight that is negative, NaN"),
        ({"v_weights": at(GOOD["v_weights"], torch.nan)}, r"v_weights' row 1 holds a weight that is negative, NaN"),
        ({"v_weights": at(GOOD["v_weights"], torch.inf)}, r"v_weights' row 1 holds a weight that is .* infinite"),
        ({"u_weights": torch.zeros(3, 4)}, r"u_weights' row 0 has no mass to normalise"),
        ({"v_values": at(GOOD["v_values"], torch.nan)}, r"v_values' row 1 holds NaN: leave points out with v_mask"),
        ({"u_weights": torch.ones(3, 5)}, r"u_weights must have one element a point: u_values are \(3, 4\)"),
        ({"v_mask": torch.ones(3, 4, dtype=torch.bool)}, "v_mask must have one element a point"),
        ({"v_values": torch.ones(2, 5)}, "leading dimensions do not broadcast"),
        ({"p": 0.5}, "p must be a finite number >= 1, got 0.5"),
        ({"p": torch.inf}, "p must be a finite number >= 1"),
        ({"u_values": torch.tensor(1.0)}, r"u_values must be \[\.\.\., points\]"),
        ({"u_offsets": torch.tensor([0, 4])}, r"u_values must be \[T\]"),
        ({"u_values": torch.ones(4), "u_weights": None, "u_offsets": torch.tensor([0, 3])}, "u_offsets must end at 4"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_values_are_refused_with_the_reason(change: dict[str, Any], says: str, backend: str) -> None:
    with pytest.raises(ValueError, match=says):
        wasserstein_1d(**bad(change), backend=backend)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"u_values": torch.ones(3, 4, dtype=torch.int64)}, r"u_values must be float64.*u_values\.float\(\)"),
        ({"v_weights": torch.ones(3, 5, dtype=torch.int32)}, "v_weights must be float64"),
        ({"u_values": [1.0, 2.0]}, "u_values must be a tensor, got list"),
        ({"u_mask": torch.ones(3, 4)}, "u_mask must be a bool tensor"),
        ({"u_offsets": [0, 4], "u_values": torch.ones(4), "u_weights": None}, "u_offsets must be integers"),
    ],
)
def test_types_that_cannot_be_meant_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        wasserstein_1d(**bad(change))


def test_masked_points_may_hold_anything() -> None:
    for backend in BACKENDS:
        x, y, a, b = problem(3, 4, 5, seed=21)
        mask = torch.ones(3, 4, dtype=torch.bool)
        mask[1, 2] = False
        want = step([x, y, a, b], u_mask=mask, backend=backend)
        with torch.no_grad():
            x[1, 2], a[1, 2] = torch.nan, -1.0
        for one, other in zip(step([x, y, a, b], u_mask=mask, backend=backend), want, strict=True):
            assert torch.equal(one, other)
