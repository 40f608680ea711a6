"""The general 1-D distance beside what a user would otherwise call: POT, SciPy in a loop (no gradient, p = 1), and the
best plain torch has: running masses merged by searchsorted for any p, the difference of distribution functions for
p = 1.

Bytes of a step: values and weights of both sides are read once, a gradient of each is kept and read, and the gradients
are written: 4 passes over four tensors. What costs is sorting.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

import wassrank
from benchmarks.problem import Contender, Inputs, Loss, Pair, Problem
from wassrank.arguments import PairArguments
from wassrank.backends import missing
from wassrank.ops.wasserstein_1d import step_work
from wassrank.ops.work import Work

__all__ = ["CPU_PAIRS", "GPU_PROBLEMS", "contenders", "inputs", "work"]

NAME = "wasserstein_1d"
POT, SCIPY = "ot.wasserstein_1d", "scipy in a loop, no gradient"
QUANTILES, FUNCTIONS = "sort and searchsorted", "difference of distribution functions"

TINY, SHORT, SQUARE, LONG, HUGE = (64, 8), (1024, 64), (1024, 1024), (64, 16384), (256, 65536)
GPU_PROBLEMS = (
    *(Problem(NAME, shape, "weighted") for shape in (SQUARE, SHORT, LONG, HUGE)),
    Problem(NAME, SQUARE, "weighted", p=2.0),
    Problem(NAME, SQUARE, "unweighted", p=2.0),
)
CPU_PAIRS = (
    *(
        Pair(Problem(NAME, shape, "weighted", p=p), rival, 1.0 if shape == TINY else goal)
        for shape in (TINY, SHORT, SQUARE, LONG)
        for p, rival, goal in (
            (1.0, POT, 1 / 8),
            (1.0, QUANTILES, 1 / 2),
            (1.0, FUNCTIONS, 1 / 2),
            (2.0, POT, 1 / 8),
            (2.0, QUANTILES, 1 / 2),
        )
    ),
    *(Pair(Problem(NAME, shape, "weighted"), SCIPY) for shape in (SHORT, SQUARE, LONG)),
    *(Pair(Problem(NAME, shape, "unweighted", p=2.0), QUANTILES) for shape in (SHORT, SQUARE, LONG)),
    Pair(Problem(NAME, SQUARE, "weighted", p=1.5), QUANTILES),
    Pair(Problem(NAME, HUGE, "weighted"), FUNCTIONS),
)


def inputs(problem: Problem, device: str, seed: int = 0) -> Inputs:
    """Points of two normal distributions; weights uniform between 0 and 1."""
    generator = torch.Generator(device).manual_seed(seed)
    u, v = torch.randn(2, *problem.shape, generator=generator, device=device).to(problem.torch_dtype)
    leaves = [u, 1.5 * v + 0.5]
    if problem.labels == "weighted":
        leaves += [torch.rand(problem.shape, generator=generator, device=device) for _ in range(2)]
    return Inputs(tuple(leaf.requires_grad_() for leaf in leaves))


def work(problem: Problem) -> Work:
    values, weights = (torch.empty(problem.shape, dtype=dtype, device="meta") for dtype in (problem.torch_dtype, None))
    a = PairArguments(values, values, pairs=problem.shape[0], wanted=0b11, p=problem.p)
    if problem.labels == "weighted":
        a = a._replace(u_weights=weights, v_weights=weights, wanted=0b1111)
    return step_work(a)


def contenders(problem: Problem, device: str) -> dict[str, Contender]:
    found = {
        f"wassrank {backend}": Contender(ours(backend))
        for backend in ("native", "triton")
        if missing(backend, device) is None
    }
    found["plain torch"] = Contender(ours("torch"))
    found[QUANTILES] = Contender(by_quantiles)
    if problem.p == 1:
        found[FUNCTIONS] = Contender(by_distribution_functions)
        if device == "cpu" and importlib.util.find_spec("scipy") is not None:
            found[SCIPY] = Contender(scipy_in_a_loop, synchronises=True)
    if importlib.util.find_spec("ot") is not None:
        found[POT] = Contender(pot, synchronises=True)
    return found


def ours(backend: str) -> Callable[[Problem], Loss]:
    distance: Callable[..., Tensor] = wassrank.wasserstein_1d
    return lambda problem: lambda x: distance(*x.leaves, p=problem.p, backend=backend).mean()


def masses(x: Inputs) -> tuple[Tensor, Tensor]:
    """Weights over their sums."""
    if len(x.leaves) == 2:
        n = x.leaves[0].shape[-1]
        return (torch.full_like(x.leaves[0], 1 / n), torch.full_like(x.leaves[1], 1 / n))
    _, _, a, b = x.leaves
    return a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)


def by_quantiles(problem: Problem) -> Loss:
    def loss(x: Inputs) -> Tensor:
        sides = []
        for values, mass in zip(x.leaves[:2], masses(x), strict=True):
            points, order = values.sort(-1)
            sides.append((points, mass.gather(-1, order).cumsum(-1)))
        (u, F), (v, G) = sides
        heights = torch.cat([F, G], -1).sort(-1).values
        gap = [
            points.gather(-1, torch.searchsorted(running, heights).clamp(max=points.shape[-1] - 1))
            for points, running in ((u, F.detach()), (v, G.detach()))
        ]
        distance = (gap[0] - gap[1]).abs()
        distance = distance if problem.p == 1 else distance**problem.p
        share = torch.cat([heights[:, :1], heights.diff(dim=-1)], -1)
        cost: Tensor = (share * distance).sum(-1)
        return cost.mean()

    return loss


def by_distribution_functions(problem: Problem) -> Loss:
    def loss(x: Inputs) -> Tensor:
        m, n = masses(x)
        points, order = torch.cat(x.leaves[:2], -1).sort(-1)
        gap: Tensor = torch.cat([m, -n], -1).gather(-1, order).cumsum(-1)[:, :-1]
        cost: Tensor = (gap.abs() * points.diff(dim=-1)).sum(-1)
        return cost.mean()

    return loss


def pot(problem: Problem) -> Loss:
    import ot

    def loss(x: Inputs) -> Tensor:
        m, n = masses(x)
        costs: Tensor = ot.wasserstein_1d(x.leaves[0].T, x.leaves[1].T, m.T, n.T, p=problem.p)
        return costs.mean()

    return loss


def scipy_in_a_loop(problem: Problem) -> Loss:
    from scipy.stats import wasserstein_distance

    def loss(x: Inputs) -> Tensor:
        rows = zip(*(leaf.detach().numpy() for leaf in x.leaves), strict=True)
        values = [wasserstein_distance(*row) for row in rows]
        nothing = torch.stack([leaf[0, 0] * 0 for leaf in x.leaves]).sum()  # something to call backward on
        mean: Tensor = nothing + sum(values) / len(values)
        return mean

    return loss
