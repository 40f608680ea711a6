"""What is timed runs, and solves the problem it claims to: every problem at a size of a few rows, on the CPU."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import losses
from benchmarks.gpu.stages.timings import problems
from benchmarks.gpu.stages.tune import Trial
from benchmarks.gpu.timing import measure
from benchmarks.losses.from_embeddings import CHUNKED, CROSS_ENTROPY
from benchmarks.problem import Contender, Inputs, Loss, Problem, loss_and_gradients, training_step

SMALL = {"in_batch": (4, 24), "packed": (5, 64), "padded": (5, 64)}
OTHER_LOSSES = {"F.cross_entropy", "scipy in a loop, no gradient", CROSS_ENTROPY, CHUNKED}
SLOW = {"torch.compile of plain torch"}


def small(problem: Problem) -> Problem:
    shape = SMALL.get(problem.labels, (5, 33))
    return replace(problem, shape=(*shape, 16) if len(problem.shape) == 3 else shape)


@pytest.mark.parametrize("problem", problems(), ids=lambda p: p.id)
def test_contenders_solve_the_same_problem(problem: Problem) -> None:
    problem = small(problem)
    benchmark = losses.benchmark(problem.loss)
    inputs = benchmark.inputs(problem, "cpu", seed=3)
    found = {
        name: loss_and_gradients(contender.prepare(problem), inputs)
        for name, contender in benchmark.contenders(problem, "cpu").items()
        if name not in SLOW
    }
    assert {"wassrank native", "plain torch"} <= found.keys()
    half = inputs.leaves[0].dtype in (torch.float16, torch.bfloat16)
    for name in found.keys() - OTHER_LOSSES:
        for got, want in zip(found[name], found["plain torch"], strict=True):
            torch.testing.assert_close(
                got.double(), want.double(), rtol=2e-2 if half else 1e-4, atol=1e-3 if half else 1e-5
            )


def test_compiled_contender_solves_the_same_problem() -> None:
    problem = small(problems()[1])
    benchmark = losses.benchmark(problem.loss)
    inputs = benchmark.inputs(problem, "cpu", seed=3)
    contenders = benchmark.contenders(problem, "cpu")
    compiled, plain = (
        loss_and_gradients(contenders[name].prepare(problem), inputs)
        for name in ("torch.compile of plain torch", "plain torch")
    )
    torch.testing.assert_close(compiled, plain)


def test_problems_take_turns_and_are_named_apart() -> None:
    ids = [problem.id for problem in problems()]
    assert len(ids) == len(set(ids)) == sum(len(losses.benchmark(name).GPU_PROBLEMS) for name in losses.NAMES)


def test_every_goal_looks_for_a_problem_that_is_timed_or_is_still_to_come() -> None:
    from benchmarks.gpu.goals import LARGEST, SMALL

    ids = {problem.id for problem in problems()}
    assert {LARGEST, SMALL} <= ids


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) * 1e3


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass


class Graph:
    def replay(self) -> None:
        time.sleep(1e-4)


@pytest.fixture
def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda with a device that does nothing, so that all of the timing code runs where there is no GPU."""

    @contextlib.contextmanager
    def nothing(*_: Any) -> Iterator[None]:
        yield

    properties = SimpleNamespace(L2_cache_size=1 << 16, major=9, minor=0, total_memory=1 << 30, name="pretended")
    for name, value in {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": nothing,
        "stream": nothing,
        "current_stream": Stream,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 0,
        "max_memory_allocated": lambda: 1 << 20,
        "get_device_properties": lambda *_: properties,
        "get_device_name": lambda *_: "pretended",
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


@pytest.mark.usefixtures("pretend_cuda")
def test_measure_gives_figures_and_reports_what_fails() -> None:
    problem = small(problems()[1])
    benchmark = losses.benchmark(problem.loss)

    def broken(problem: Problem) -> Loss:
        def loss(x: Inputs) -> torch.Tensor:
            raise RuntimeError("no such kernel\nand a page of details")

        return loss

    contenders = dict(benchmark.contenders(problem, "cpu"))
    contenders = {name: contenders[name] for name in ("wassrank native", "F.cross_entropy")}
    contenders["broken"] = Contender(broken)
    contenders["waits"] = Contender(contenders["F.cross_entropy"].prepare, synchronises=True)
    begun: list[str] = []
    found = measure(benchmark, problem, contenders, benchmark.work(problem), 0.0, begun.append, device="cpu")
    assert found["broken"] == {"error": "RuntimeError: no such kernel"}
    assert begun == ["wassrank native", "F.cross_entropy", "broken", "waits", ""]
    assert found["waits"]["method"].startswith("events")
    for name in ("wassrank native", "F.cross_entropy", "waits"):
        figures = found[name]
        assert figures["device_us"]["p20"] <= figures["device_us"]["p50"] <= figures["device_us"]["p80"]
        seconds = figures["device_us"]["p50"] * 1e-6
        assert figures["gb_per_s"] == pytest.approx(benchmark.work(problem).bytes / seconds / 1e9)
        assert figures["wall_us"]["p50"] > 0
        assert figures["host_us"]["p50"] > 0
    assert found["wassrank native"]["method"] == "CUDA graph"
    # 3 · 64 KiB of L2 asks for many sets of 384 bytes of scores: as many as are allowed.
    assert found["wassrank native"]["input_sets"] == 64


@pytest.mark.usefixtures("pretend_cuda")
def test_a_trial_times_every_problem() -> None:
    chosen = [small(problem) for problem in problems()[:2]]
    times = Trial("native", chosen, "cpu").times({})
    assert len(times) == 2
    assert all(0 < t < 1 for t in times)


def test_a_training_step_leaves_one_gradient() -> None:
    problem = small(problems()[1])
    benchmark = losses.benchmark(problem.loss)
    inputs = benchmark.inputs(problem, "cpu", 0)
    loss = benchmark.contenders(problem, "cpu")["wassrank native"].prepare(problem)
    training_step(loss, inputs)
    (first,) = (leaf.grad for leaf in inputs.leaves)
    training_step(loss, inputs)
    (second,) = (leaf.grad for leaf in inputs.leaves)
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)
