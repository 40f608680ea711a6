"""Searches the launch configurations and writes the best as a table in the package, keyed by architecture.

One number at a time, in rounds, from the values in use; a change stays where it makes a step over PROBLEMS, by the mean
of the logarithms of their times, faster by more than NOISE, and gives the same losses and gradients. What was tried is
on disk, a line each. When the time is spent the best so far is what counts; it is saved if, timed against the values in
use once more, it still wins.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import losses
from benchmarks.gpu.stages import Context, SkippedError, main
from benchmarks.gpu.stages.device import describe
from benchmarks.gpu.timing import captured, short
from benchmarks.machine import today
from benchmarks.problem import Inputs, Problem, loss_and_gradients
from wassrank import tuning
from wassrank.backends import missing

RECORD = "tune"
BACKENDS = ("native", "triton")
NOISE = 0.015
ROUNDS = 2
REPLAYS = 15
STEPS = 4  # in a graph: of scores larger than the cache, or so small that they stay in it in training too

Values = dict[str, int]


class Trial:
    """The problems' inputs, and what a right answer is."""

    def __init__(self, backend: str, problems: Sequence[Problem], device: str) -> None:
        self.backend = backend
        self.device = device
        self.problems = [(p, losses.benchmark(p.loss).inputs(p, device, 0)) for p in problems]
        self.right: list[tuple[Tensor, ...]] = []

    def times(self, values: Mapping[str, int]) -> list[float]:
        """Device seconds a step of each problem.

        Raises:
            RuntimeError, ValueError: these values cannot be launched, or give other results.
        """
        with tuning.override(self.backend, values):
            return [self.time(i, problem, inputs) for i, (problem, inputs) in enumerate(self.problems)]

    def time(self, i: int, problem: Problem, inputs: Inputs) -> float:
        contender = losses.benchmark(problem.loss).contenders(problem, self.device)[f"wassrank {self.backend}"]
        loss = contender.prepare(problem)
        found = loss_and_gradients(loss, inputs)
        if len(self.right) <= i:
            self.right.append(found)
        for got, right in zip(found, self.right[i], strict=True):
            if not torch.allclose(got.double(), right.double(), rtol=1e-2, atol=1e-5 * float(right.double().norm())):
                raise RuntimeError(f"{problem.id}: other results than with the values in use")
        del found

        def steps() -> None:
            for _ in range(STEPS):
                loss_and_gradients(loss, inputs)

        graph = captured(steps)
        samples = []
        for _ in range(REPLAYS):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            samples.append(start.elapsed_time(end) / 1e3 / STEPS)
        return float(statistics.median(samples))


def gain(times: list[float], before: list[float]) -> float:
    """How much shorter, 0.1 for a tenth, by the mean of the logarithms."""
    return 1 - math.exp(statistics.fmean(math.log(t / b) for t, b in zip(times, before, strict=True)))


def candidates(backend: str, values: Values) -> Iterator[tuple[str, int]]:
    """(name, another value), near ones first."""
    for name, value in values.items():
        near = [value * 2, value // 2, value * 4, value // 4]
        allowed = tuning.TRITON_ALLOWED[name] if backend == "triton" else near
        yield from ((name, other) for other in near if other in allowed and other >= 1)


def in_use(backend: str, capability: int) -> Values:
    if backend == "triton":
        return dict(vars(tuning.triton_tuning(capability)))
    from wassrank import _C

    return dict(_C.tuning(capability)) | tuning.tuning(capability, "native")


def problems() -> list[Problem]:
    return [problem for name in losses.NAMES for problem in losses.benchmark(name).GPU_PROBLEMS[:7]]


def search(backend: str, capability: int, context: Context, until: float, trial: Trial) -> dict[str, Any]:
    start = in_use(backend, capability)
    best, best_times = start, trial.times(start)
    before = best_times
    for _ in range(ROUNDS):
        improved = False
        for name, other in candidates(backend, best):
            if context.left() < until:
                break
            line: dict[str, Any] = {"backend": backend, "name": name, "value": other}
            try:
                times = trial.times(best | {name: other})
            except (RuntimeError, ValueError) as error:
                context.store.append(RECORD, line | {"error": short(error)})
                continue
            won = gain(times, best_times)
            context.store.append(RECORD, line | {"gain": won, "seconds": times})
            if won > NOISE:
                best, best_times, improved = best | {name: other}, times, True
        if not improved:
            break
    final = gain(trial.times(best), trial.times(start)) if best != start else 0.0
    result = {"before": start, "after": best, "gain": final, "seconds_before": before, "seconds_after": best_times}
    if final > NOISE:
        changed = {name: value for name, value in best.items() if value != start[name]}
        saved = tuning.tuning(capability, backend) | changed
        measured = {"device": torch.cuda.get_device_name(), "date": today(), "torch": torch.__version__}
        tuning.save(capability, backend, saved, measured)
        result["saved"] = saved
    return result


def run(context: Context) -> dict[str, Any]:
    describe()
    capability = tuning.capability(torch.device("cuda", 0))
    assert capability is not None
    present = [backend for backend in BACKENDS if missing(backend, "cuda") is None]
    if not present:
        raise SkippedError("no fused backend can run here: there is nothing to tune")
    results: dict[str, Any] = {}
    total = context.left()
    for i, backend in enumerate(present):
        try:
            until = total * (1 - (i + 1) / len(present)) + 15
            results[backend] = search(backend, capability, context, until, Trial(backend, problems(), "cuda"))
        except RuntimeError as error:
            results[backend] = {"error": short(error)}
    (context.store.folder / "tuned.json").write_text(tuning.TABLE.read_text(encoding="utf-8"), encoding="utf-8")
    failed = [backend for backend, result in results.items() if "error" in result]
    return {"tuned": results, "status": "failed" if failed else "ok", "reason": ", ".join(failed)}


if __name__ == "__main__":
    main(RECORD, run)
