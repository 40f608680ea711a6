"""The commands: what they leave behind, what they print, and how they end on bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training import demo, evaluate, report, train
from training.cli import exit_status
from training.encoder import BiEncoder
from training.errors import InputError
from training.folders import staged
from training.report import difference, table

ROOT = Path(__file__).parents[2]
FAST = ["--per_device_train_batch_size", "4", "--num_train_epochs", "1", "--logging_steps", "1"]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.endswith("\n")
    return error


def test_train_leaves_a_model_and_its_metrics(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "trained"
    arguments = ["--data", str(collection_folder), "--output", str(output), "--model", str(model_folder)]
    assert train.main([*arguments, *FAST, "--learning_rate", "1e-3"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[0])
    metrics = json.loads((output / train.METRICS_FILE).read_text(encoding="utf-8"))
    assert metrics["run"]["steps"] == [1, 2]
    assert metrics["loss"]["name"] == "combined_loss"
    assert printed["after"] == metrics["after"]
    before, after = (BiEncoder.from_pretrained(folder).encode(["w1 w2"]) for folder in (model_folder, output))
    assert not torch.allclose(before, after)

    assert evaluate.main(["--data", str(collection_folder), "--model", str(output)]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated == {"split": "test", "queries": 4} | metrics["after"]


def test_a_failed_train_leaves_nothing(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (collection_folder / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write("no json\n")
    there = sorted(tmp_path.iterdir())
    arguments = ["--data", str(collection_folder), "--output", str(tmp_path / "trained")]
    assert train.main([*arguments, "--model", str(model_folder), *FAST]) == 1
    assert f"{collection_folder / 'corpus.jsonl'}:49: not JSON" in one_line(capsys)
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    "extra",
    [
        ["--p", "0.5"],
        ["--target", "cubic"],
        ["--model", "/no/such/model"],
        ["--data", "/no/such/data"],
        ["--group-size", "0"],
        ["--relevant-grade", "0"],
        ["--save_strategy", "steps"],
        ["--warmup_steps", "-1"],
    ],
)
def test_bad_input_ends_train_with_one_line_and_status_one(
    extra: list[str],
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--data", str(collection_folder), "--output", str(tmp_path / "trained")]
    assert train.main([*arguments, "--model", str(model_folder), *FAST, *extra]) == 1
    assert one_line(capsys).startswith("error: ")
    assert not (tmp_path / "trained").exists()


@pytest.mark.parametrize(
    "extra",
    [
        ["--no-such-option", "1"],
        ["--lr_scheduler_type", "x"],
        ["--in-batch", "some"],
        ["--learning_rate", "x"],
        ["--loss", "l2"],
    ],
)
def test_an_unusable_command_line_ends_with_one_line_and_status_two(
    extra: list[str], collection_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(collection_folder), "--output", str(tmp_path / "trained")]
    with pytest.raises(SystemExit) as ended:
        train.main([*arguments, *extra])
    assert ended.value.code == 2
    assert "error: " in one_line(capsys)


def test_an_existing_output_is_refused_before_any_work(
    collection_folder: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(collection_folder), "--output", str(model_folder)]
    assert train.main([*arguments, "--model", str(model_folder), *FAST]) == 1
    assert "not empty" in one_line(capsys)
    BiEncoder.from_pretrained(model_folder)


def test_checkpoints_go_where_told_and_training_resumes(
    collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    arguments = ["--data", str(collection_folder), "--model", str(model_folder), *FAST]
    checkpoints = ["--save_strategy", "steps", "--save_steps", "1", "--output_dir", str(tmp_path / "points")]
    assert train.main([*arguments, "--output", str(tmp_path / "whole"), *checkpoints]) == 0
    resumed = ["--resume_from_checkpoint", str(tmp_path / "points" / "checkpoint-1")]
    assert train.main([*arguments, "--output", str(tmp_path / "resumed"), *resumed]) == 0
    whole, again = (BiEncoder.from_pretrained(tmp_path / name) for name in ("whole", "resumed"))
    torch.testing.assert_close(whole.encode(["w1 w2"]), again.encode(["w1 w2"]))


def test_bad_input_ends_evaluate_with_one_line_and_status_one(
    collection_folder: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(collection_folder), "--model", str(model_folder), "--split", "dev"]
    assert evaluate.main(arguments) == 1
    assert "dev.tsv: cannot be read" in one_line(capsys)


def test_a_command_run_by_name_returns_its_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.evaluate", "--data", str(tmp_path)]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "corpus.jsonl" in ended.stderr


def test_a_command_that_is_terminated_leaves_nothing(tmp_path: Path) -> None:
    def command() -> None:
        with staged(tmp_path / "result") as folder:
            (folder / "half.txt").write_text("half", encoding="utf-8")
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        exit_status(command)
    assert ended.value.code == 143
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_demo_compares_three_losses_with_the_start(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "demo"
    arguments = ["--data", str(collection_folder), "--model", str(model_folder), "--output", str(output)]
    for _ in range(2):  # the second replaces the first
        assert demo.main([*arguments, "--batch-size", "4", "--max-steps", "3"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((output / demo.REPORT_FILE).read_text(encoding="utf-8"))
    names = [row["name"] for row in result["rows"]]
    assert names == ["zero-shot", "InfoNCE", "grade-axis Wasserstein p=1", "grade-axis Wasserstein p=2"]
    assert table(result["rows"]) in printed
    for row in result["rows"][1:]:
        assert row["steps"] == [1, 2, 3]
        assert 0 < row["loss_share"] < 1
        assert row["seconds_per_step"] > 0
        assert row["backend"] in {"native", "triton", "torch"}
    assert {"date", "cpu", "cores", "torch"} <= set(result["machine"])
    assert (output / demo.PICTURE_FILE).read_bytes().startswith(b"\x89PNG")
    assert str(output / demo.PICTURE_FILE) in printed
    BiEncoder.from_pretrained(output / demo.MODEL_FOLDER)


def test_the_demo_notices_a_model_that_was_not_saved_whole(model_folder: Path, tmp_path: Path) -> None:
    encoder = BiEncoder.from_pretrained(model_folder)
    encoder.save_pretrained(tmp_path / "saved")
    assert demo.reload_error(encoder, tmp_path / "saved", "w1 w2 w3") < 1e-6
    with torch.no_grad():
        next(iter(encoder.parameters())).add_(torch.randn(()))
        encoder.encoder.embeddings.word_embeddings.weight.mul_(2)
    with pytest.raises(RuntimeError, match="differs"):
        demo.reload_error(encoder, tmp_path / "saved", "w1 w2 w3")


def test_a_difference_comes_with_its_standard_error() -> None:
    better = {"ndcg_of_query": {"a": 0.5, "b": 0.9, "c": 0.4}}
    worse = {"ndcg_of_query": {"c": 0.2, "b": 0.8, "a": 0.5}}
    gain, error = difference(better, worse)
    assert gain == pytest.approx(0.1)
    assert error == pytest.approx(0.1 / 3**0.5)


def test_a_report_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"row": []}', encoding="utf-8")
    for file, why in ((tmp_path / "none.json", "cannot be read"), (tmp_path / "x.json", "not a demo's report")):
        with pytest.raises(InputError, match=f"{file}: {why}"):
            report.main(str(file))
