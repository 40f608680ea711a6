"""On the CPU: a step of each loss, forward + backward, in turn with what a user would otherwise call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch.profiler import ProfilerActivity, profile

from benchmarks import losses
from benchmarks.problem import Inputs, Pair, training_step

PAIRS = [pair for name in losses.NAMES for pair in losses.benchmark(name).CPU_PAIRS]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.problem.id} vs {pair.rival}")
def test_against(paired: Any, benchmark: Any, pair: Pair) -> None:
    problem = pair.problem
    loss = losses.benchmark(problem.loss)
    contenders = loss.contenders(problem, "cpu")
    if pair.rival not in contenders:
        pytest.skip(f"{pair.rival} is not installed")
    inputs = loss.inputs(problem, "cpu", seed=0)

    def step(name: str) -> Callable[[], None]:
        prepared = contenders[name].prepare(problem)
        return lambda: training_step(prepared, inputs)

    ours = step(pair.contender)
    benchmark.extra_info["claim"] = {
        "loss": problem.loss,
        "rival": pair.rival,
        "dtype": problem.dtype,
        "labels": problem.labels,
        "p": problem.p,
        "shape": problem.shape,
    }
    if pair.goal is not None:
        benchmark.extra_info["goal"] = pair.goal
    benchmark.extra_info["extra_memory"] = extra_memory(ours, inputs)
    paired(ours, step(pair.rival))


def extra_memory(run: Callable[[], None], inputs: Inputs) -> float:
    """Bytes torch allocated in one step beyond the gradients, as a share of the leaves' bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        run()
    allocated = float(sum(max(0, e.self_cpu_memory_usage) for e in trace.key_averages()))
    leaves = sum(leaf.nbytes for leaf in inputs.leaves)
    return (allocated - leaves) / leaves
