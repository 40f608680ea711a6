"""Input that only shows itself on the way: grades without a target, splits without judgements, a disk that is full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trains_with_little_disk

from training import evaluate, train
from training.errors import InputError
from training.losses import LossOptions, check_grades

ROOT = Path(__file__).parents[2]
HEADER = "query-id\tcorpus-id\tscore\n"
FAST = ["--per_device_train_batch_size", "4", "--num_train_epochs", "1"]


@pytest.fixture
def arguments(collection_folder: Path, model_folder: Path, tmp_path: Path) -> list[str]:
    data, output = str(collection_folder), str(tmp_path / "trained")
    return ["--data", data, "--model", str(model_folder), "--output", output, *FAST]


@pytest.mark.parametrize(
    ("grades", "options", "why"),
    [
        ({3: 0, 2: 0, 1: 0, 0: 0}, [], "target linear gives nothing to grades up to 0: nothing would be learnt"),
        ({3: 0, 2: 0, 1: 0, 0: 0}, ["--target", "exp2"], "target exp2 gives nothing to grades up to 0"),
        ({3: 40, 2: 2, 1: 1, 0: 0}, [], "the highest grade is 40, but integer grades are levels up to 31"),
        ({3: 1e3, 2: 0.5, 1: 0, 0: 0}, ["--target", "exp2"], "target exp2 has no number for the grade 1000"),
        ({3: 3, 2: 2}, [], "score_transform gives no grade >= 0 for the score '0'"),
    ],
)
def test_grades_that_have_no_target_are_refused(
    grades: dict[float, float],
    options: list[str],
    why: str,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources = f"train: [{{folder: collection, score_transform: {grades}}}]\ntest: [{{folder: collection}}]\n"
    (tmp_path / "data.yaml").write_text(sources, encoding="utf-8")
    assert train.main([*arguments, "--data", str(tmp_path / "data.yaml"), *options]) == 1
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    assert not (tmp_path / "trained").exists()


def test_grades_that_the_test_split_alone_has_are_no_levels(arguments: list[str], collection_folder: Path) -> None:
    test = collection_folder / "qrels" / "test.tsv"
    test.write_text(test.read_text(encoding="utf-8").replace("\t3\n", "\t300\n"), encoding="utf-8")
    assert train.main(arguments) == 0


def test_a_target_that_is_no_gain_takes_any_grade() -> None:
    for options in (LossOptions(), LossOptions(target="softmax"), LossOptions("info_nce")):
        check_grades(options, -2.5, real_grades=True)
    with pytest.raises(InputError, match=r"gives nothing to grades up to -2\.5"):
        check_grades(LossOptions(target="linear"), -2.5, real_grades=True)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_is_named(
    split: str, arguments: list[str], collection_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (collection_folder / "qrels" / f"{split}.tsv").write_text(HEADER, encoding="utf-8")
    assert train.main(arguments) == 1
    assert capsys.readouterr().err.endswith(f"qrels/{split}.tsv: no judgements\n")
    assert not (tmp_path / "trained").exists()
    assert evaluate.main(["--data", str(collection_folder), "--split", split]) == 1
    assert capsys.readouterr().err.endswith(f"qrels/{split}.tsv: no judgements\n")


def test_a_full_disk_ends_training_with_one_line_and_leaves_nothing(arguments: list[str], tmp_path: Path) -> None:
    """Files may only grow so far that the weights do not fit, or the weights do and the optimizer's state does not."""
    size = (tmp_path / "tiny_model" / "model.safetensors").stat().st_size
    points = ["--output_dir", str(tmp_path / "points"), "--save_strategy", "steps", "--save_steps", "1"]
    there = sorted(tmp_path.iterdir())
    for limit, extra, named in (
        (size // 2, [], tmp_path / "trained"),
        (size + size // 2, points, tmp_path / "points" / "checkpoint-1"),
    ):
        ended = subprocess.run(
            [sys.executable, trains_with_little_disk.__file__, str(limit), *arguments, *extra],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ended.returncode == 1, ended.stderr[-3000:]
        assert "Traceback" not in ended.stderr
        assert f"error: {named}: cannot be written: " in ended.stderr.splitlines()[-1]
        assert list((tmp_path / "points").glob("*")) == []
        assert [path for path in sorted(tmp_path.iterdir()) if path.name not in ("points", "cache")] == there
