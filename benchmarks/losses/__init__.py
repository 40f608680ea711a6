"""The losses that are timed, one file each, named as everywhere in the library."""

from __future__ import annotations

import importlib

from benchmarks.problem import LossBenchmark

NAMES = ("grade_wasserstein", "info_nce", "listwise_kl", "combined_loss", "gaussian_wasserstein", "wasserstein_1d")


def benchmark(loss: str) -> LossBenchmark:
    """The benchmark of the loss of that name."""
    module: LossBenchmark = importlib.import_module(f"benchmarks.losses.{loss}")  # a module as a protocol
    return module
