"""Times every loss's problems, the most informative first, one line on disk a problem. A contender that takes the
process with it is left out when the runner begins again."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import losses
from benchmarks.gpu.stages import Context, main
from benchmarks.gpu.stages.device import describe
from benchmarks.gpu.store import Store
from benchmarks.gpu.timing import measure, short
from benchmarks.problem import Problem

RECORD = "timings"
SECONDS = 3.0
"""Of replays for a problem, after compiling and first steps."""

TOGETHER = "all in turn"
DIED = "it ended its process, left the device unusable, or took longer than the stage had"


def problems() -> list[Problem]:
    """The first of every loss, then the second of every loss, and so on."""
    rounds = itertools.zip_longest(*(losses.benchmark(name).GPU_PROBLEMS for name in losses.NAMES))
    return [problem for turn in rounds for problem in turn if problem is not None]


def note_death(store: Store) -> None:
    """What was begun last and has not ended took its process with it."""
    lines = store.lines(RECORD)
    if lines and "began" in lines[-1]:
        store.append(RECORD, {"problem": lines[-1]["problem"], "died": lines[-1]["began"]})


def run(context: Context) -> dict[str, Any]:
    describe()
    store = context.store
    note_death(store)
    lines = store.lines(RECORD)
    died = {(line["problem"], line["died"]) for line in lines if "died" in line}
    done = {line["problem"] for line in lines if "figures" in line}
    left_out = []
    for problem in problems():
        if problem.id in done:
            continue
        if context.left() < 2 * SECONDS:
            left_out.append(problem.id)
            continue
        time_problem(problem, store, {name for id_, name in died if id_ == problem.id})
    if left_out:
        return {"status": "cut", "reason": f"no time was left for {len(left_out)} problems", "left_out": left_out}
    return {}


def time_problem(problem: Problem, store: Store, died: set[str]) -> None:
    """One line: the problem and each contender's figures or error."""
    benchmark = losses.benchmark(problem.loss)
    work = benchmark.work(problem)
    contenders = dict(benchmark.contenders(problem, "cuda"))
    figures: dict[str, Any] = {name: {"error": DIED} for name in died}
    for name in contenders.keys() & died:
        del contenders[name]
    if TOGETHER not in died:

        def began(name: str) -> None:
            store.append(RECORD, {"problem": problem.id, "began": name or TOGETHER})

        try:
            figures |= measure(benchmark, problem, contenders, work, SECONDS, began)
        except torch.cuda.OutOfMemoryError as error:  # the inputs themselves
            figures[TOGETHER] = {"error": short(error)}
    store.append(RECORD, {"problem": problem.id, **asdict(problem), "work": asdict(work), "figures": figures})


if __name__ == "__main__":
    main(RECORD, run)
