"""`python -m benchmarks.generate`: how fast and how lean the generator is, apart from the model.

throughput  queries a second with an endpoint of fixed latency (a process of its own), as a share of concurrency /
            latency, which nothing can exceed; the goal is GOAL or more, start and end of the run included
memory      the process's resident memory over QUERIES queries, answered at once by a backend in the process; flat
            is to grow by no more than what is kept an item (see training/generate/inputs.py)

The figures are printed and kept in benchmarks/results/generate-<date>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.endpoint import MODEL
from benchmarks.stored import RESULTS
from training.generate import Limits, generate
from training.generate.backends import Completion, Message
from training.generate.backends.http import Http

GOAL = 0.9
LATENCY = 2.0
"""Seconds an answer takes. A model needs longer for four passages; the shorter, the harder to keep up."""
CONCURRENCIES = (32, 128, 256)
ROUNDS = 10  # answers a place of the concurrency

QUERIES = 1_000_000


def throughput(concurrency: int, folder: Path) -> dict[str, Any]:
    """Seconds between the run's first and last request apart from the model's, as shares."""
    count = ROUNDS * concurrency
    write_queries(folder / "queries.jsonl", count)
    command = [sys.executable, "-m", "benchmarks.endpoint", "--latency", str(LATENCY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as endpoint:
        assert endpoint.stdout is not None
        backend = Timed(endpoint.stdout.readline().strip(), MODEL)
        try:
            generate(folder / "queries.jsonl", folder / "out", backend, limits=Limits(concurrency), progress=False)
        finally:
            endpoint.terminate()
    seconds = time.perf_counter() - backend.began
    rate = count / seconds
    return {"concurrency": concurrency, "latency": LATENCY, "rate": rate, "share": rate * LATENCY / concurrency}


class Timed(Http):
    """Notes when the work began, after the checks."""

    began = 0.0

    async def start(self) -> None:
        await super().start()
        self.began = time.perf_counter()


class AtOnce:
    """A backend that answers at once, and notes the memory every `every` answers."""

    concurrency = 64

    def __init__(self, every: int) -> None:
        self.seen: list[tuple[int, float]] = []
        self._every = every
        self._count = 0

    def describe(self) -> dict[str, Any]:
        return {"kind": "at once"}

    async def start(self) -> None: ...

    async def complete(self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int) -> Completion:
        if self._count % self._every == 0:
            self.seen.append((self._count, resident()))
        self._count += 1
        return Completion(json.dumps({key: f"{key} of {seed}: " + "word " * 60 for key in schema["properties"]}), 9, 9)

    async def close(self) -> None: ...


def memory(count: int, folder: Path) -> dict[str, Any]:
    write_queries(folder / "queries.jsonl", count)
    before = resident()
    backend = AtOnce(every=max(1, count // 20))
    began = time.perf_counter()
    generate(folder / "queries.jsonl", folder / "out", backend, progress=True)
    return {
        "queries": count,
        "before": before,
        "seen": backend.seen,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": time.perf_counter() - began,
    }


def resident() -> float:
    """MiB of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def write_queries(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(
                json.dumps({"_id": f"q{number}", "text": f"what is known of the thing of number {number}"}) + "\n"
            )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=__doc__)
    parser.add_argument("--queries", type=int, default=QUERIES, help="for the memory (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / f"generate-{machine.today()}.json", help="result file")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["WASSRANK_CACHE"] = scratch
        rows = []
        for concurrency in CONCURRENCIES:
            rows.append(throughput(concurrency, Path(scratch) / str(concurrency)))
            share = rows[-1]["share"]
            verdict = "met" if share >= GOAL else "MISSED"
            print(f"concurrency {concurrency:4}: {rows[-1]['rate']:6.1f}/s, {share:.1%} of the most, goal {verdict}")
        used = memory(options.queries, Path(scratch) / "memory")
    (after, first), (end, last) = used["seen"][1], used["seen"][-1]
    print(f"{used['queries']} queries in {used['seconds']:.0f} s, MiB resident: {used['before']:.0f} before it began,")
    print(f"{first:.0f} after {after} answers, {last:.0f} after {end}, {used['peak']:.0f} at most")
    options.out.write_text(
        json.dumps({"machine": machine.describe(), "throughput": rows, "memory": used}, indent=1) + "\n"
    )
    print(f"-> {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
