"""The bundled sample as frameworks want it, and the encoder that comes with a package, cut to one layer."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from training.data import read_collection
from training.encoder import default_encoder

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models' threads cost more than they save, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sample() -> list[dict[str, Any]]:
    """Training queries of training/sample: query, four passages in an order drawn anew for each, and their grades."""
    collection = read_collection(ROOT / "training" / "sample", ["train"])
    judged = collection.qrels["train"]
    rows = []
    for query in judged:
        passages = list(judged[query].items())
        random.Random(query).shuffle(passages)
        texts = [collection.corpus[passage][:100] for passage, _ in passages]
        rows.append({"query": collection.queries[query], "passages": texts, "grades": [int(g) for _, g in passages]})
    return rows


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2."""
    return default_encoder()


@pytest.fixture(scope="session")
def run_two() -> Callable[[str, Path], list[Any]]:
    """Runs a worker of this folder in two processes, which joined.py joins; returns what each found."""

    def run(worker: str, out: Path) -> list[Any]:
        command = [sys.executable, "-m", f"integrations.{worker}", str(out)]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
        started = [
            subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        try:
            for process in started:
                _, errors = process.communicate(timeout=240)
                assert process.returncode == 0, errors[-4000:]
        finally:
            for process in started:
                process.kill()
        return [torch.load(out / f"{rank}.pt") for rank in range(2)]

    return run


def falls(losses: list[float]) -> bool:
    """Whether the last quarter of a run's losses is clearly below the first."""
    part = len(losses) // 4
    return sum(losses[-part:]) < 0.95 * sum(losses[:part])
