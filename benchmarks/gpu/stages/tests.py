"""Runs every test marked `gpu`. What each came to is on disk as soon as it is known; a test that leaves the device
unusable ends its process, and the runner begins again after it."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import pytest
import torch

from benchmarks.gpu.stages import Context, main
from benchmarks.gpu.stages.device import describe
from benchmarks.gpu.store import ROOT, Store
from benchmarks.gpu.timing import short

RECORD = "tests"


class Recorder:
    """A pytest plugin: leaves out what is known, appends what becomes known, stops in time."""

    def __init__(self, store: Store, stop: float) -> None:
        self.store = store
        self.stop = stop
        self.known = {line["test"] for line in store.lines(RECORD) if line["outcome"] != "began"}
        # Begun and never ended: it took the process with it.
        for test in sorted({line["test"] for line in store.lines(RECORD)} - self.known):
            self.record(test, "failed", "it ended the process or left the device unusable")

    def record(self, test: str, outcome: str, error: str = "") -> None:
        self.store.append(RECORD, {"test": test, "outcome": outcome, "error": error})
        if outcome != "began":
            self.known.add(test)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        left = [item for item in items if item.nodeid not in self.known]
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in self.known])
        items[:] = left

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and report.nodeid not in self.known:
            error = last_line(report.longreprtext)
            # A file of tests for an optional package (POT, pytrec_eval) that this machine does without.
            outcome = "skipped" if error.startswith("ModuleNotFoundError") else "failed"
            self.record(report.nodeid, outcome, f"not collected: {error}")

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if time.monotonic() > self.stop:
            pytest.exit("the stage's time is spent", returncode=0)
        self.record(item.nodeid, "began")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            error = last_line(report.longreprtext) if report.failed else ""
            self.record(report.nodeid, report.outcome, error)

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        if not torch.cuda.is_initialized():
            return
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:  # nothing more can run in this process
            self.record(item.nodeid, "failed", short(error))
            os._exit(1)


def last_line(text: str) -> str:
    """The error's own line of a traceback as pytest prints it."""
    lines = text.strip().splitlines() or [""]
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (errors[0] if errors else lines[-1])[:300]


def run(context: Context) -> dict[str, Any]:
    describe()
    arguments = [
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        "--tb=short",
        str(ROOT / "tests"),
    ]
    status = pytest.main(arguments, plugins=[Recorder(context.store, context.stop)])
    return summary(context.store) | ({"status": "cut", "reason": "time"} if status == 0 and context.left() <= 0 else {})


def summary(store: Store) -> dict[str, Any]:
    """Counts by outcome and the failures with their errors, from what was recorded; a later record of a test wins."""
    last = {line["test"]: line for line in store.lines(RECORD)}
    failures = [{"test": t, "error": line["error"]} for t, line in last.items() if line["outcome"] == "failed"]
    counts = Counter(line["outcome"] for line in last.values())
    return {"counts": dict(counts), "failures": failures, "status": "failed" if failures else "ok"}


if __name__ == "__main__":
    main(RECORD, run)
