"""--report_to: what Hugging Face hands to TensorBoard and to Weights & Biases, and what is not installed."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from training import train


@pytest.fixture
def arguments(collection_folder: Path, model_folder: Path, tmp_path: Path) -> list[str]:
    shutil.copy(collection_folder / "qrels" / "train.tsv", collection_folder / "qrels" / "dev.tsv")
    arguments = ["--data", str(collection_folder), "--model", str(model_folder), "--output", str(tmp_path / "trained")]
    arguments += ["--per_device_train_batch_size", "4", "--num_train_epochs", "1", "--logging_steps", "1"]
    return [*arguments, "--output_dir", str(tmp_path / "points"), "--eval_strategy", "epoch"]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_the_loss_and_the_measures(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    assert train.main([*arguments, "--report_to", "tensorboard"]) == 0
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [one.step for one in events.Scalars("train/loss")] == [1, 2]
    assert 0 < events.Scalars("eval/ndcg@10")[0].value <= 1


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_weights_and_biases_keeps_a_run_without_a_network(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert train.main([*arguments, "--report_to", "wandb"]) == 0
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert (next(run.glob("*.wandb"))).stat().st_size > 0


@pytest.mark.parametrize("name", ["nobody", "swanlab"])
def test_what_is_not_installed_is_one_line(
    name: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*arguments, "--report_to", name]) == 1
    assert capsys.readouterr().err == f"error: --report_to {name}: not installed here, or unknown to Hugging Face\n"
    assert not (tmp_path / "trained").exists()
