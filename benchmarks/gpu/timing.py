"""Times the contenders of a problem on a CUDA device, in turn, so that a clock that drifts moves all of them.

Device time: a CUDA graph of one step on each of several sets of inputs, replayed between two events, over the number of
steps. The sets together are several times the L2 cache, as far as COPIES goes: a small problem's scores stay in the
cache, as in training, where they were written a moment before. What cannot be captured is timed with events around
each step, and says so.

Wall time: a loop of whole training steps in Python, with one wait at its end, over the number of steps: what a user
sees. Host time: what one step costs the host when the device is idle and nothing is waited for.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.problem import Contender, Inputs, Loss, LossBenchmark, Problem, loss_and_gradients, training_step
from wassrank.ops.work import Work

COPIES = 64
CACHE_SIZES = 3
WARM_UP = 3
MIN_SAMPLES, MAX_SAMPLES = 10, 200
WALL_STEPS = 50

Figures = dict[str, Any]


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    if len(samples) == 1:
        return dict.fromkeys(("p20", "p50", "p80"), samples[0])
    cuts = statistics.quantiles(samples, n=10, method="inclusive")
    return {"p20": cuts[1], "p50": statistics.median(samples), "p80": cuts[7]}


def input_sets(benchmark: LossBenchmark, problem: Problem, device: str) -> list[Inputs]:
    """As many sets as make CACHE_SIZES times the L2 cache, at most COPIES."""
    first = benchmark.inputs(problem, device, 0)
    read = sum(t.nbytes for t in (*first.leaves, *first.rest) if isinstance(t, torch.Tensor))
    wanted = CACHE_SIZES * torch.cuda.get_device_properties().L2_cache_size
    count = max(1, min(COPIES, -(-wanted // max(1, read))))
    return [first, *(benchmark.inputs(problem, device, seed) for seed in range(1, count))]


@dataclass
class Candidate:
    """A contender made ready: `replay()` queues `steps` steps."""

    figures: Figures
    replay: Callable[[], Any]
    steps: int


def measure(
    benchmark: LossBenchmark,
    problem: Problem,
    contenders: Mapping[str, Contender],
    work: Work,
    seconds: float,
    began: Callable[[str], None] = lambda name: None,
    device: str = "cuda",
) -> dict[str, Figures]:
    """Figures of each contender by name, or {"error": ...}: one that fails does not stop the others. `began(name)` is
    told before each is first run, should it take the process with it. Takes about `seconds` after the first steps."""
    inputs = input_sets(benchmark, problem, device)
    found: dict[str, Figures] = {}
    ready: dict[str, Candidate] = {}
    for name, contender in contenders.items():
        began(name)
        try:
            ready[name] = prepared(contender, problem, inputs)
            found[name] = ready[name].figures
        except Exception as error:  # whatever a kernel or a rival does: it is reported, and the next one is timed
            found[name] = {"error": short(error)}
            recover()
    began("")
    samples = interleaved(ready, seconds)
    for name, times in samples.items():
        figures = found[name]
        figures["device_us"] = percentiles(times)
        figures["samples"] = len(times)
        middle = figures["device_us"]["p50"] * 1e-6
        figures["gb_per_s"] = work.bytes / middle / 1e9
        figures["tflop_per_s"] = work.flops / middle / 1e12
    ready.clear()
    del inputs
    gc.collect()
    torch.cuda.empty_cache()
    return found


def prepared(contender: Contender, problem: Problem, inputs: Sequence[Inputs]) -> Candidate:
    loss = contender.prepare(problem)
    for _ in range(WARM_UP):
        training_step(loss, inputs[0])
    torch.cuda.synchronize()
    figures: Figures = {
        "input_sets": len(inputs),
        "extra_bytes": extra_bytes(loss, inputs[0]),
        "wall_us": percentiles(wall_times(loss, inputs)),
        "host_us": percentiles(host_times(loss, inputs[0])),
        **launches(loss, inputs[0]),
    }
    for one in inputs:
        clear(one)

    def eager() -> None:
        for one in inputs:
            loss_and_gradients(loss, one)

    if contender.synchronises:
        figures["method"] = "events: it waits for the device"
        return Candidate(figures, eager, len(inputs))
    try:
        graph = captured(eager)
    except RuntimeError as error:
        recover()
        figures["method"] = f"events: cannot be captured ({short(error)})"
        return Candidate(figures, eager, len(inputs))
    figures["method"] = "CUDA graph"
    return Candidate(figures, graph.replay, len(inputs))


def captured(run: Callable[[], None]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def interleaved(ready: Mapping[str, Candidate], seconds: float) -> dict[str, list[float]]:
    """Microseconds a step, by contender, one sample a round."""
    samples: dict[str, list[float]] = {name: [] for name in ready}
    stop = time.monotonic() + seconds
    for round_ in range(MAX_SAMPLES):
        if round_ >= MIN_SAMPLES and time.monotonic() > stop:
            break
        marks: dict[str, tuple[torch.cuda.Event, torch.cuda.Event]] = {}
        for name, candidate in ready.items():
            marks[name] = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            marks[name][0].record()
            candidate.replay()
            marks[name][1].record()
        torch.cuda.synchronize()
        for name, (start, end) in marks.items():
            samples[name].append(start.elapsed_time(end) * 1e3 / ready[name].steps)
    return samples


def wall_times(loss: Loss, inputs: Sequence[Inputs], rounds: int = 5, limit: float = 2.0) -> list[float]:
    """Microseconds a training step, a loop at a time."""
    times: list[float] = []
    stop = time.monotonic() + limit
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for step in range(WALL_STEPS):
            training_step(loss, inputs[step % len(inputs)])
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / WALL_STEPS * 1e6)
        if time.monotonic() > stop:
            break
    return times


def host_times(loss: Loss, inputs: Inputs, rounds: int = 20) -> list[float]:
    """Microseconds until a step has been queued, on an idle device."""
    times: list[float] = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        training_step(loss, inputs)
        times.append((time.perf_counter() - start) * 1e6)
    torch.cuda.synchronize()
    return times


def launches(loss: Loss, inputs: Inputs) -> Figures:
    """Kernels, copies and fills of one step, counted by the profiler; why not, where it cannot."""
    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
            training_step(loss, inputs)
            torch.cuda.synchronize()
    except RuntimeError as error:
        return {"launches": None, "launches_not_counted": short(error)}
    count = sum(e.device_type.name == "CUDA" for e in trace.events())
    if count == 0:
        return {"launches": None, "launches_not_counted": "the profiler saw no kernel"}
    return {"launches": count}


def extra_bytes(loss: Loss, inputs: Inputs) -> int:
    """Peak memory of a step beyond inputs and gradients."""
    clear(inputs)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    training_step(loss, inputs)
    torch.cuda.synchronize()
    gradients = sum(leaf.nbytes for leaf in inputs.leaves)
    return torch.cuda.max_memory_allocated() - before - gradients


def clear(inputs: Inputs) -> None:
    for leaf in inputs.leaves:
        leaf.grad = None


def recover() -> None:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


def short(error: BaseException) -> str:
    """One line of an error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
