"""On the CPU: a step of each loss, forward + backward, in turn with what a user would otherwise call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import losses
from benchmarks.memory import peak
from benchmarks.problem import Inputs, Pair, Problem, training_step

PAIRS = [pair for name in losses.NAMES for pair in losses.benchmark(name).CPU_PAIRS]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.problem.id} vs {pair.rival}")
def test_against(paired: Any, benchmark: Any, pair: Pair) -> None:
    problem = pair.problem
    loss = losses.benchmark(problem.loss)
    contenders = loss.contenders(problem, "cpu")
    if pair.rival not in contenders:
        pytest.skip(f"{pair.rival} is not installed")

    def step(name: str, problem: Problem) -> tuple[Callable[[], None], Inputs]:
        prepared, inputs = contenders[name].prepare(problem), loss.inputs(problem, "cpu", seed=0)
        return lambda: training_step(prepared, inputs), inputs

    ours, inputs = step(pair.contender, problem)
    rival, _ = step(pair.rival, pair.rival_problem or problem)
    benchmark.extra_info["claim"] = {
        "loss": problem.loss,
        "rival": pair.rival if pair.rival_problem is None else f"the same, {pair.rival_problem.labels}",
        "dtype": problem.dtype,
        "labels": problem.labels,
        "p": problem.p,
        "shape": problem.shape,
    }
    if pair.goal is not None:
        benchmark.extra_info["goal"] = pair.goal
    benchmark.extra_info["extra_memory"] = extra_memory(ours, inputs, problem)
    paired(ours, rival)


def extra_memory(run: Callable[[], None], inputs: Inputs, problem: Problem) -> float:
    """The most bytes a step holds beyond inputs and gradients, as a share of the leaves' bytes: of scores, and from
    embeddings of the scores they would have."""
    for leaf in inputs.leaves:
        leaf.grad = None
    leaves = sum(leaf.nbytes for leaf in inputs.leaves)
    of = math.prod(problem.shape[:2]) * problem.torch_dtype.itemsize if len(problem.shape) == 3 else leaves
    return (peak(run) - leaves) / of
