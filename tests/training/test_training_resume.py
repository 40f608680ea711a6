"""A run that is killed goes on where it was; one that no longer gets better stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import killed_in_mid_run
import pytest
import torch

from training import train
from training.checkpoints import last_checkpoint
from training.data import read_collection
from training.encoder import BiEncoder
from training.evaluate import evaluate
from training.scratch import scratch_encoder

ROOT = Path(__file__).parents[2]
SHORT = ["--per_device_train_batch_size", "2", "--num_train_epochs", "2", "--logging_steps", "1"]


@pytest.fixture
def arguments(collection_folder: Path, tmp_path: Path) -> list[str]:
    """A scratch encoder with dropout, trained for two epochs of four steps; group 2 of 4 passages: each epoch's own."""
    torch.manual_seed(0)
    (tmp_path / "model").mkdir()
    texts = read_collection(collection_folder, ["train"]).corpus.values()
    scratch_encoder(texts, hidden_size=32, layers=1).save_pretrained(tmp_path / "model")
    return ["--data", str(collection_folder), "--model", str(tmp_path / "model"), "--group-size", "2", *SHORT]


def metrics(folder: Path) -> Any:
    return json.loads((folder / train.METRICS_FILE).read_text(encoding="utf-8"))


def test_a_killed_run_resumes_where_it_stopped(arguments: list[str], tmp_path: Path) -> None:
    assert train.main([*arguments, "--output", str(tmp_path / "whole")]) == 0

    saving = ["--output_dir", str(tmp_path / "points"), "--save_strategy", "steps", "--save_steps", "3"]
    saving += ["--resume_from_checkpoint", "last", "--output", str(tmp_path / "resumed")]
    killed = subprocess.run(
        [sys.executable, killed_in_mid_run.__file__, *arguments, *saving],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert not (tmp_path / "resumed").exists()
    points = tmp_path / "points"
    assert last_checkpoint(points) == points / "checkpoint-6"  # in mid-epoch; the seventh step is lost
    # As if it had been killed while it saved that step: such a checkpoint is no use.
    shutil.copytree(points / "checkpoint-6", points / "checkpoint-7")
    (points / "checkpoint-7" / "trainer_state.json").write_text('{"global_step": 7,', encoding="utf-8")

    assert train.main([*arguments, *saving]) == 0
    whole, resumed = (BiEncoder.from_pretrained(tmp_path / run).state_dict() for run in ("whole", "resumed"))
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=1e-7)
    expected, found = metrics(tmp_path / "whole"), metrics(tmp_path / "resumed")
    assert found["run"]["steps"] == expected["run"]["steps"] == list(range(1, 9))
    assert found["run"]["losses"] == pytest.approx(expected["run"]["losses"], rel=1e-6)
    assert found["after"] == expected["after"]


def test_a_run_that_was_never_saved_starts_from_the_beginning(arguments: list[str], tmp_path: Path) -> None:
    last = ["--output_dir", str(tmp_path / "points"), "--resume_from_checkpoint", "last"]
    assert train.main([*arguments, *last, "--output", str(tmp_path / "trained")]) == 0
    assert metrics(tmp_path / "trained")["run"]["steps"] == list(range(1, 9))


def test_a_checkpoint_is_whole_when_every_process_has_written_its_own(tmp_path: Path) -> None:
    for step in (9, 10):
        point = tmp_path / f"checkpoint-{step}"
        point.mkdir()
        (point / "trainer_state.json").write_text("{}", encoding="utf-8")
        for rank in range(2):
            torch.save({}, point / f"rng_state_{rank}.pth")
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path, processes=2) == tmp_path / "checkpoint-10"
    half = (tmp_path / "checkpoint-10" / "rng_state_1.pth").read_bytes()[:100]
    (tmp_path / "checkpoint-10" / "rng_state_1.pth").write_bytes(half)
    assert last_checkpoint(tmp_path, processes=2) == tmp_path / "checkpoint-9"
    (tmp_path / "checkpoint-9" / "trainer_state.json").unlink()
    assert last_checkpoint(tmp_path, processes=2) is None


def test_early_stopping_keeps_the_best_model(arguments: list[str], collection_folder: Path, tmp_path: Path) -> None:
    """Two evaluations after the best one the run ends, and what is saved is the model of the best."""
    shutil.copy(collection_folder / "qrels" / "train.tsv", collection_folder / "qrels" / "dev.tsv")
    stopping = ["--early-stopping", "2", "--output_dir", str(tmp_path / "points"), "--num_train_epochs", "40"]
    stopping += ["--learning_rate", "3e-3"]
    assert train.main([*arguments, *stopping, "--output", str(tmp_path / "stopped")]) == 0
    run = metrics(tmp_path / "stopped")["run"]
    scores = [evaluation["ndcg@10"] for evaluation in run["evaluations"]]
    assert [evaluation["step"] for evaluation in run["evaluations"]] == [4 * (i + 1) for i in range(len(scores))]
    assert len(scores) < 40
    best = max(scores)
    assert scores.index(best) == len(scores) - 3  # two evaluations without a better one
    assert best > scores[0]
    encoder = BiEncoder.from_pretrained(tmp_path / "stopped")
    assert evaluate(encoder, read_collection(collection_folder, ["dev"]), "dev").means()["ndcg@10"] == best


def test_a_checkpoint_of_another_architecture_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saving = ["--output_dir", str(tmp_path / "points"), "--save_strategy", "epoch"]
    assert train.main([*arguments, *saving, "--output", str(tmp_path / "trained")]) == 0
    (tmp_path / "wider").mkdir()
    scratch_encoder(["w1 w2"], hidden_size=64, layers=1).save_pretrained(tmp_path / "wider")
    capsys.readouterr()
    resume = ["--model", str(tmp_path / "wider"), "--resume_from_checkpoint", str(tmp_path / "points" / "checkpoint-4")]
    assert train.main([*arguments, *resume, "--output", str(tmp_path / "x")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: --resume_from_checkpoint")
    assert "is of another model: its encoder.embeddings.LayerNorm.bias is [32], this one's [64]" in error


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (["--early-stopping", "2"], "--early-stopping needs --output_dir"),
        (["--early-stopping", "0", "--output_dir", "p"], "at least 1 evaluation, got 0"),
        (["--resume_from_checkpoint", "last"], "--resume_from_checkpoint last needs --output_dir"),
        (["--resume_from_checkpoint", "/no/such"], "/no/such: is no checkpoint"),
        (["--eval_strategy", "epoch"], "dev.tsv: cannot be read"),
    ],
)
def test_what_cannot_be_resumed_or_stopped_is_refused_in_one_line(
    extra: list[str], why: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*arguments, *extra, "--output", str(tmp_path / "x")]) == 1
    error = capsys.readouterr().err
    assert why in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("error: ")
