"""The losses that are timed, one file each, named as everywhere in the library."""

from __future__ import annotations

import importlib

from benchmarks.losses import from_embeddings
from benchmarks.problem import LossBenchmark

NAMES = (
    "grade_wasserstein",
    "info_nce",
    "listwise_kl",
    "combined_loss",
    "gaussian_wasserstein",
    "wasserstein_1d",
    *(f"{loss}{from_embeddings.SUFFIX}" for loss in from_embeddings.GOALS),
)


def benchmark(loss: str) -> LossBenchmark:
    """The benchmark of the loss of that name."""
    if loss.endswith(from_embeddings.SUFFIX):
        return from_embeddings.FromEmbeddings(loss.removesuffix(from_embeddings.SUFFIX))
    module: LossBenchmark = importlib.import_module(f"benchmarks.losses.{loss}")  # a module as a protocol
    return module
