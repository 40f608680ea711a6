"""Two processes that share a batch train to the weights that one process with the whole batch trains to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import trained_by_processes
from torch import Tensor
from two_processes import ragged_collection, torchrun

from training.checkpoints import last_checkpoint
from training.data import read_collection
from training.encoder import BiEncoder
from training.scratch import scratch_encoder

CASES = tuple(trained_by_processes.CASES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, and what one process and two made of it, in `one` and `two`."""
    folder = tmp_path_factory.mktemp("processes")
    collection = ragged_collection(folder / "collection")
    torch.manual_seed(0)
    texts = read_collection(collection, ["train"]).corpus.values()
    for name in ("model", "one", "two"):
        (folder / name).mkdir()
    scratch_encoder(texts, hidden_size=32, layers=1, dropout=0.0).save_pretrained(folder / "model")
    trained_by_processes.train_all(collection, folder / "model", folder / "one")
    torchrun(trained_by_processes.__file__, str(collection), str(folder / "model"), str(folder / "two"))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_to_the_weights_of_one(case: str, trained: Path) -> None:
    start = BiEncoder.from_pretrained(trained / "model").state_dict()
    one, first, second = (weights(trained / f"{run}.pt") for run in (f"one/{case}.0", f"two/{case}.0", f"two/{case}.1"))
    moved = max(float((weight - start[name]).abs().max()) for name, weight in one.items())
    assert moved > 0.01
    for name, weight in one.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weight, rtol=0, atol=1e-4 * moved)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_log_the_loss_of_one(case: str, trained: Path) -> None:
    one, two = (losses(trained / f"{run}/{case}.0.json") for run in ("one", "two"))
    # Two epochs of two full batches.
    assert len(one) == (4 / trained_by_processes.ACCUMULATED if case.endswith("accumulated") else 4)
    assert two == pytest.approx(one, rel=1e-4)


def weights(file: Path) -> dict[str, Tensor]:
    read: dict[str, Tensor] = torch.load(file, weights_only=True)
    return read


def losses(file: Path) -> list[float]:
    read: list[float] = json.loads(file.read_text(encoding="utf-8"))
    return read


@pytest.mark.full
def test_the_command_trains_in_two_processes_and_one_of_them_writes(trained: Path) -> None:
    output, points = trained / "commanded", trained / "points"
    command = ["-m", "training.train", "--data", str(trained / "collection"), "--model", str(trained / "model")]
    command += ["--from-embeddings", "--gather", "ring", "--use_cpu", "--per_device_train_batch_size", "2"]
    command += ["--output", str(output), "--output_dir", str(points), "--save_strategy", "steps", "--save_steps", "3"]
    shutil.copy(trained / "collection/qrels/train.tsv", trained / "collection/qrels/test.tsv")
    torchrun(*command, "--max_steps", "5", "--learning_rate", "1e-2")
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["after"] != metrics["before"]
    assert [path.name for path in trained.glob(".commanded*")] == []
    assert last_checkpoint(points, processes=2) == points / "checkpoint-5"
    BiEncoder.from_pretrained(output)
