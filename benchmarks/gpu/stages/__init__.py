"""The stages, a module each, run as `python -m benchmarks.gpu.stages.<name> --out DIR --seconds S`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.store import Store


class SkippedError(Exception):
    """This stage cannot run here; the text says why."""


@dataclass(frozen=True)
class Context:
    """What a stage is given."""

    store: Store
    stop: float  # of time.monotonic()
    encoder: str | None
    llm: str | None

    def left(self) -> float:
        return self.stop - time.monotonic()


def main(stage: str, run: Callable[[Context], dict[str, Any]]) -> None:
    """Runs the stage and keeps what it returns: {"status": "ok" | "failed" | "cut", ...}; ok where it does not say."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.gpu.stages.{stage}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--encoder")
    parser.add_argument("--llm")
    options = parser.parse_args()
    store = Store(options.out)
    context = Context(store, time.monotonic() + options.seconds, options.encoder, options.llm)
    try:
        result = {"status": "ok"} | run(context)
    except SkippedError as reason:
        result = {"status": "skipped", "reason": str(reason)}
    store.finish(stage, result)
