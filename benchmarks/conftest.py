"""The `paired` fixture: a contender and a rival run in turn, so that a machine whose speed drifts moves both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks.machine import THREADS

Step = Callable[[], Any]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def paired(benchmark: Any) -> Callable[[Step, Step], None]:
    """paired(contender, rival): rival, contender, rival, contender, … as many rounds as fit in `SECONDS`. Both sides'
    percentiles and the ratio of their medians go into extra_info."""

    def run(contender: Step, rival: Step) -> None:
        for _ in range(WARM_UP):
            rival()
            contender()
        start = time.perf_counter()
        rival()
        contender()
        rounds = max(MIN_ROUNDS, min(MAX_ROUNDS, int(SECONDS / (time.perf_counter() - start))))
        rival_times: list[float] = []

        def timed_rival() -> None:
            start = time.perf_counter()
            rival()
            rival_times.append(time.perf_counter() - start)

        benchmark.pedantic(contender, setup=timed_rival, rounds=rounds, iterations=1)
        own_times = benchmark.stats.stats.data
        benchmark.extra_info["rival_seconds"] = percentiles(rival_times)
        benchmark.extra_info["seconds"] = percentiles(own_times)
        benchmark.extra_info["ratio"] = statistics.median(own_times) / statistics.median(rival_times)

    return run


SECONDS = 3.0
WARM_UP = 3
MIN_ROUNDS, MAX_ROUNDS = 5, 3000


def percentiles(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=10, method="inclusive")
    return {"p20": cuts[1], "p50": statistics.median(times), "p80": cuts[7]}
