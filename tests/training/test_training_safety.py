"""What files of others cannot do: run code, bring weights that are pickles; and tokens stay in the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training import compare, evaluate, train
from training.recipe import read_recipe

ROOT = Path(__file__).parents[2]
TOKEN = "hf_a_token_that_nobody_may_see"


@pytest.fixture
def model_with_code(model_folder: Path, tmp_path: Path) -> Path:
    """The tiny model, as one that comes with code; the code leaves a file when it is run."""
    (model_folder / "own.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'run')!r}).touch()\n"
        "from transformers import BertConfig, BertModel\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n",
        encoding="utf-8",
    )
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (model_folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return model_folder


def test_code_that_comes_with_a_model_is_run_by_flag_alone(
    model_with_code: Path,
    collection_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    data, model = ["--data", str(collection_folder)], ["--model", str(model_with_code)]

    def evaluated(*flag: str) -> int:
        return evaluate.main([*data, *model, *flag])

    def compared(*flag: str) -> int:
        return compare.main([*data, *model, "--output", str(tmp_path / "compared"), *flag])

    for command in (evaluated, compared):
        assert command() == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: cannot load the encoder {str(model_with_code)!r}: ")
        assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    for command in (evaluated, compared):
        assert command("--trust-remote-code") == 0
        assert (tmp_path / "run").exists()


def test_a_recipe_cannot_ask_for_code_to_be_run(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {collection_folder}\ntrust_remote_code: true\n", encoding="utf-8")
    assert train.main(["--recipe", str(recipe), "--output", str(tmp_path / "x")]) == 1
    assert "trust_remote_code: no recipe decides that" in capsys.readouterr().err
    arguments = ["--data", str(collection_folder), "--model", str(model_folder), "--output", str(tmp_path / "trained")]
    arguments += ["--per_device_train_batch_size", "4", "--max_steps", "1", "--trust-remote-code"]
    assert train.main(arguments) == 0
    assert "trust_remote_code" not in read_recipe(str(tmp_path / "trained" / train.RECIPE_FILE)).options


def test_weights_that_are_pickled_are_not_read(
    model_folder: Path, collection_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(load_file(model_folder / "model.safetensors"), model_folder / "pytorch_model.bin")
    (model_folder / "model.safetensors").unlink()
    assert evaluate.main(["--data", str(collection_folder), "--model", str(model_folder)]) == 1
    error = capsys.readouterr().err
    assert "safetensors" in error
    assert error.count("\n") == 1


def test_a_token_on_the_command_line_is_refused_and_not_repeated(
    collection_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(collection_folder), "--output", str(tmp_path / "x"), "--hub_token", TOKEN]
    assert train.main(arguments) == 1
    error = capsys.readouterr().err
    assert error == "error: --hub_token: a token comes from the environment, HF_TOKEN, and from nowhere else\n"


def test_a_token_of_the_environment_is_in_nothing_that_is_written(
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    arguments = ["--data", str(collection_folder), "--model", str(model_folder), "--output", str(tmp_path / "trained")]
    arguments += ["--per_device_train_batch_size", "4", "--max_steps", "1", "--output_dir", str(tmp_path / "points")]
    assert train.main([*arguments, "--save_strategy", "epoch"]) == 0
    assert TOKEN not in "".join(capsys.readouterr())
    written = [path for folder in ("trained", "points") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in written)
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("named", "why"),
    [
        (["--model", "some/model"], "cannot load the encoder 'some/model': no such folder; as a hub name: "),
        (["--data", "some/data"], "some/data: no such folder; as a hub name it cannot be had: "),
    ],
)
@pytest.mark.parametrize(
    "network",
    [
        {"HF_HUB_OFFLINE": "1"},
        pytest.param({"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.full),  # nobody listens; tried five times
    ],
)
def test_a_hub_that_cannot_be_reached_is_told_in_the_last_line(
    network: dict[str, str], named: list[str], why: str, collection_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "training.evaluate", "--data", str(collection_folder)]
    ended = subprocess.run(
        [*command, "--model", str(model_folder), *named],
        env=os.environ | network | {"HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hub")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"error: {why}")
    assert "Traceback" not in ended.stderr
    assert TOKEN not in ended.stdout + ended.stderr
