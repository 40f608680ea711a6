"""Runs stages within a budget of time, each in a process of its own: a kernel that takes its process with it, or never
ends, costs that stage alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.store import ROOT, Store

GRACE = 20.0  # seconds a stage may take beyond its time to put its things down
LEAST = 5.0  # with less time than this left, no stage is begun


@dataclass(frozen=True)
class Stage:
    name: str
    share: float  # of the budget, at most; what the stages before left over does not count against it
    needs: tuple[str, ...] = ()  # stages that must have ended well
    restarts: int = 0  # how often it is begun again after it died: it goes on after what killed it


Launch = Callable[[Stage, float], list[str]]


def command(stage: Stage, store: Store, seconds: float, options: Sequence[str]) -> list[str]:
    """`python -m benchmarks.gpu.stages.<name> --out DIR --seconds S`."""
    module = f"benchmarks.gpu.stages.{stage.name}"
    return [sys.executable, "-m", module, "--out", str(store.folder), "--seconds", f"{seconds:.0f}", *options]


def run_stages(
    stages: Sequence[Stage],
    store: Store,
    seconds: float,
    launch: Launch,
    ended: Callable[[Stage, dict[str, Any]], None] = lambda stage, result: None,
) -> None:
    """Runs what has not ended yet, in order, until the time is spent. `ended` is told of each as it ends."""
    stop = time.monotonic() + seconds
    for stage in stages:
        earlier = store.stage(stage.name)
        if earlier is not None and earlier["status"] in ("ok", "failed"):
            ended(stage, earlier)
            continue
        result = run_one(stage, store, min(stage.share * seconds, stop - time.monotonic()), launch)
        store.finish(stage.name, result)
        ended(stage, result)


def run_one(stage: Stage, store: Store, seconds: float, launch: Launch) -> dict[str, Any]:
    for needed in stage.needs:
        status = (store.stage(needed) or {"status": "not run"})["status"]
        if status != "ok":
            return {"status": "skipped" if status == "skipped" else "cut", "reason": f"the stage {needed}: {status}"}
    began = time.monotonic()
    path = store.stages / f"{stage.name}.json"
    result: dict[str, Any] = {"status": "cut", "reason": "no time was left"}
    for _ in range(stage.restarts + 1):
        left = seconds - (time.monotonic() - began)
        if left < LEAST:
            break
        path.unlink(missing_ok=True)  # of a run that was cut
        status, log_tail = execute(launch(stage, left), store.logs / f"{stage.name}.log", left + GRACE)
        found = store.stage(stage.name)
        if found is not None:
            result = found
            break
        if status is None:
            result = {"status": "cut", "reason": f"did not end within {left + GRACE:.0f} s"}
            break
        result = {"status": "failed", "reason": f"died with exit status {status}: {log_tail}"}
    return result | {"seconds": round(time.monotonic() - began, 1)}


def execute(arguments: list[str], log: Any, limit: float) -> tuple[int | None, str]:
    """Exit status, None for a process that had to be stopped; and the last line it printed."""
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            arguments, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True, env=environment()
        )
        try:
            status: int | None = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return status, lines[-1][:500] if lines else "it printed nothing"


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONUNBUFFERED": "1"}
