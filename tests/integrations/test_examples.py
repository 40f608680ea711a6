"""The recipes under examples/: each is short, runs, and learns."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import ROOT, falls

FOLDER = ROOT / "examples"
RECIPES = {
    "plain_loop": "torch",
    "accelerate_loop": "accelerate",
    "hf_trainer": "transformers",
    "lightning_module": "lightning",
}


def recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    """The recipe, what it has of the sample, and MiniLM's first layer, whose table of words stays as it is."""
    pytest.importorskip(RECIPES[name], reason=f"needs {RECIPES[name]}")
    monkeypatch.syspath_prepend(str(FOLDER))
    torch.manual_seed(0)
    sample = importlib.import_module("sample")
    encoder = sample.Encoder(num_hidden_layers=1)
    encoder.model.embeddings.requires_grad_(False)
    return importlib.import_module(name), sample, encoder


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_learns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, sample, encoder = recipe(name, monkeypatch)
    data = sample.sample(4) if name == "hf_trainer" else sample.loader(4, 4)
    losses = module.train(encoder, data, epochs=20, lr=3e-4, **({"batch_size": 4} if name == "hf_trainer" else {}))
    assert len(losses) == 20
    assert falls(losses), losses


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_at_most_40_lines(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 40


def test_every_recipe_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {"sample", *RECIPES}


@pytest.mark.full
def test_two_processes_train_as_one_with_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice two queries against once four: the same losses, so the same gradients at every step but the last."""
    module, sample, encoder = recipe("accelerate_loop", monkeypatch)
    alone = module.train(encoder.eval(), sample.loader(4, 4), epochs=6, lr=3e-4)
    script = tmp_path / "run.py"
    script.write_text(
        "import os, pathlib, torch, sample, accelerate_loop\n"
        "encoder = sample.Encoder(num_hidden_layers=1).eval()\n"
        "encoder.model.embeddings.requires_grad_(False)\n"
        "losses = accelerate_loop.train(encoder, sample.loader(2, 4), epochs=6, lr=3e-4)\n"
        "torch.save(losses, pathlib.Path(__file__).with_name(os.environ['RANK'] + '.pt'))\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{FOLDER}",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(alone, rel=2e-3)
