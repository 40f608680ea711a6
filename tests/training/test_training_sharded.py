"""Weights that are spread over two processes (FSDP, DeepSpeed's ZeRO) train to what whole ones train to."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from two_processes import launch, ragged_collection, torchrun

from training.data import read_collection
from training.encoder import BiEncoder
from training.recipe import RECIPES
from training.scratch import scratch_encoder

pytestmark = pytest.mark.full
ACCELERATE = ["accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
ACCELERATE += ["--dynamo_backend", "no"]
FSDP = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
FSDP += ["--fsdp_state_dict_type", "FULL_STATE_DICT"]
DEEPSPEED = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")

MODES = {"fsdp": ["--fsdp"], "zero 3": ["--deepspeed", str(RECIPES / "zero3.json")]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of two layers, and what two processes of whole models made of it, in `whole`."""
    folder = tmp_path_factory.mktemp("sharded")
    collection = ragged_collection(folder / "collection")
    for split in ("dev", "test"):
        shutil.copy(collection / "qrels" / "train.tsv", collection / "qrels" / f"{split}.tsv")
    torch.manual_seed(0)
    (folder / "model").mkdir()
    texts = read_collection(collection, ["train"]).corpus.values()
    scratch_encoder(texts, hidden_size=32, layers=2, dropout=0.0).save_pretrained(folder / "model")
    train(folder, "whole")
    return folder


def train(folder: Path, name: str, *options: str, start: Callable[..., None] = torchrun) -> None:
    """Trains the model by the command, in two processes, into the folder `name`."""
    command = ["--data", str(folder / "collection"), "--model", str(folder / "model"), "--output", str(folder / name)]
    command += ["--from-embeddings", "--gather", "passages", "--use_cpu", "--per_device_train_batch_size", "2"]
    command += ["--num_train_epochs", "2", "--logging_steps", "1", "--learning_rate", "1e-2"]
    start("-m", "training.train", *command, *options)


def weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = BiEncoder.from_pretrained(folder).state_dict()
    return state


def metrics(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("options", "launcher"),
    [
        pytest.param(["--fsdp"], None, id="fsdp"),
        pytest.param(["--fsdp", "--encode-chunk-size", "3"], None, id="fsdp, in chunks"),
        pytest.param(["--deepspeed", str(RECIPES / "zero2.json")], None, id="zero 2", marks=DEEPSPEED),
        pytest.param(["--deepspeed", str(RECIPES / "zero3.json")], None, id="zero 3", marks=DEEPSPEED),
        pytest.param([], [*ACCELERATE, "--multi_gpu"], id="accelerate launch"),  # torchrun, on the CPU too
        pytest.param([], [*ACCELERATE, *FSDP], id="accelerate launch, fsdp"),
    ],
)
def test_spread_weights_train_to_the_same(
    options: list[str], launcher: list[str] | None, folder: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    train(folder, name, *options, start=torchrun if launcher is None else lambda *command: launch(*launcher, *command))
    start, expected, found = (weights(folder / run) for run in ("model", "whole", name))
    moved = max(float((weight - start[key]).abs().max()) for key, weight in expected.items())
    assert moved > 0.01
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=0, atol=2e-3 * moved)
    run, whole = metrics(folder / name), metrics(folder / "whole")
    assert len(whole["run"]["losses"]) == 4
    assert run["run"]["losses"] == pytest.approx(whole["run"]["losses"], rel=1e-4)
    assert run["after"] == whole["after"]  # measured by an encoder that is whole again


@pytest.mark.parametrize("mode", ["fsdp", pytest.param("zero 3", marks=DEEPSPEED)])
def test_a_spread_run_resumes_where_it_stopped(mode: str, folder: Path) -> None:
    points = folder / f"saved, {mode}"
    saving = [*MODES[mode], "--output_dir", str(points), "--save_strategy", "steps", "--save_steps", "3"]
    train(folder, f"{mode}, saving", *saving)
    shutil.rmtree(points / "checkpoint-4")  # the last: as if it had been cut off after the third step
    train(folder, f"{mode}, resumed", *saving, "--resume_from_checkpoint", "last")
    expected, found = folder / f"{mode}, saving", folder / f"{mode}, resumed"
    assert metrics(found)["run"]["losses"] == metrics(expected)["run"]["losses"]
    for key, weight in weights(found).items():
        torch.testing.assert_close(weight, weights(expected)[key], rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", ["fsdp", pytest.param("zero 3", marks=DEEPSPEED)])
def test_spread_weights_are_measured_in_training_and_the_best_are_kept(mode: str, folder: Path) -> None:
    options = [*MODES[mode], "--output_dir", str(folder / f"points, {mode}"), "--eval_strategy", "epoch"]
    train(folder, f"{mode}, measured", *options)
    once = metrics(folder / f"{mode}, measured")
    assert [one["step"] for one in once["run"]["evaluations"]] == [2, 4]
    assert once["run"]["evaluations"][-1]["map"] == once["after"]["map"]  # the splits are the same
    assert once["run"]["losses"] == pytest.approx(metrics(folder / "whole")["run"]["losses"], rel=1e-4)
    train(folder, f"{mode}, stopped", *options, "--early-stopping", "1", "--num_train_epochs", "6")
    stopped = metrics(folder / f"{mode}, stopped")
    best = max(one["ndcg@10"] for one in stopped["run"]["evaluations"])
    assert stopped["after"]["ndcg@10"] == best


def test_low_rank_changes_are_spread_and_become_weights(folder: Path) -> None:
    train(folder, "low rank", "--fsdp", "--lora-rank", "2", "--gradient_checkpointing")
    train(folder, "low rank, whole", "--lora-rank", "2")
    start, expected, found = (weights(folder / run) for run in ("model", "low rank, whole", "low rank"))
    assert found.keys() == start.keys()
    assert any(not torch.equal(found[key], start[key]) for key in start)
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=0, atol=1e-5)
