"""The losses in Tevatron's trainer, with its collator and its encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

import wassrank
from wassrank.testing import check_adapter

pytest.importorskip("tevatron.retriever.trainer", reason="needs Tevatron, which is installed from its repository")
from tevatron.retriever.arguments import DataArguments
from tevatron.retriever.modeling import DenseModel

from wassrank.integrations.tevatron import GradedCollator, GradedTrainer

from .conftest import falls
from .tevatron_worker import LOSSES, Encoder, collate, rows, step


def trainer(folder: Path, model: Any, loss: Any, data: Any, collator: Any, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    return GradedTrainer(graded_loss=loss, model=model, args=arguments, train_dataset=data, data_collator=collator)


@pytest.mark.parametrize("name", LOSSES)
def test_its_loss_is_the_core_loss_of_the_encoders_scores(name: str, tmp_path: Path) -> None:
    core = type(LOSSES[name])(**LOSSES[name].options | {"temperature": 0.5})
    used = trainer(tmp_path, Encoder(), LOSSES[name], rows(), collate)  # whose temperature is the model's, 0.5

    class Scores(torch.nn.Module):
        def forward(self, query: Any, passage: Any) -> Any:
            return SimpleNamespace(scores=query)

    def loss(scores: Any, labels: Any) -> Any:
        return used.compute_loss(Scores(), (scores, None, labels))

    check_adapter(loss, convention="query-major", expected=core)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, run_two: Callable[[str, Path], list[Any]]) -> list[Any]:
    return run_two("tevatron_worker", tmp_path_factory.mktemp("tevatron"))


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_step_as_one(name: str, shared: list[Any], tmp_path: Path) -> None:
    want, want_step = step(name, tmp_path)
    for process in shared:
        loss, moved = process[name]
        assert loss == pytest.approx(want, rel=1e-5)
        for found, expected in zip(moved, want_step, strict=True):
            assert (found - expected).norm() <= 1e-7 * expected.norm() + 1e-12


def test_its_trainer_learns_and_saves(minilm: str, sample: list[dict[str, Any]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = transformers.AutoModel.from_pretrained(minilm, num_hidden_layers=1, add_pooling_layer=False)
    encoder.embeddings.requires_grad_(False)
    model = DenseModel(encoder, pooling="mean", normalize=True, temperature=0.05)
    collator = GradedCollator(DataArguments(), transformers.AutoTokenizer.from_pretrained(minilm))
    data = [((row["query"], None), [(text, None) for text in row["passages"]], row["grades"]) for row in sample[:4]]
    used = trainer(
        tmp_path,
        model,
        wassrank.GradeWassersteinLoss(target="linear"),
        data,
        collator,
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=3e-4,
    )
    used.train()
    losses = [entry["loss"] for entry in used.state.log_history if "loss" in entry]
    assert len(losses) == 20
    assert falls(losses), losses
    used.save_model(str(tmp_path / "model"))
    again = DenseModel.load(str(tmp_path / "model"), pooling="mean", normalize=True)
    for one, other in zip(again.encoder.parameters(), model.encoder.parameters(), strict=False):
        assert torch.equal(one, other)


TEXT = ("t", None)
BAD: dict[str, tuple[list[Any], str]] = {
    "no grades": ([(TEXT, [TEXT])], "has no grades: take DistilTrainDataset"),
    "a passage without": ([(TEXT, [TEXT] * 2, [1, ValueError("score is not found")])], "without 'score'"),
    "ragged": ([(TEXT, [TEXT] * 2, [1, 0]), (TEXT, [TEXT], [1])], "feature 1 .* has 1 passages and 1 grades"),
    "too few grades": ([(TEXT, [TEXT] * 2, [1])], "2 passages and 1 grades"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_features_are_refused(name: str) -> None:
    features, text = BAD[name]
    with pytest.raises(ValueError, match=text):
        GradedCollator(DataArguments(), None)(features)


def test_bad_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"temperature is given twice, 0\.5 in ModelArguments"):
        trainer(tmp_path, Encoder(0.5), wassrank.GradeWassersteinLoss(temperature=0.1), rows(), collate)
    with pytest.raises(ValueError, match="has gathered"):
        trainer(tmp_path, Encoder(), wassrank.GaussianWassersteinLoss(gather=True), rows(), collate)
    with pytest.raises(ValueError, match="one number a batch"):
        trainer(tmp_path, Encoder(), wassrank.GradeWassersteinLoss(reduction="none"), rows(), collate)
    with pytest.raises(ValueError, match="GradedCollator"):
        trainer(tmp_path, Encoder(), LOSSES["grade"], rows(), collate).compute_loss(Encoder(), collate(rows())[:2])


def test_one_passage_a_query_needs_those_of_others(tmp_path: Path) -> None:
    queries, passages, grades = collate(rows())
    one = queries, {"x": passages["x"].unflatten(0, (-1, 3))[:, 0]}, grades[:, :1]
    alone = trainer(tmp_path, Encoder(), wassrank.GradeWassersteinLoss(in_batch=None), rows(), collate)
    with pytest.raises(ValueError, match="train_group_size=1"):
        alone.compute_loss(Encoder(), one)
    assert (
        trainer(tmp_path, Encoder(), wassrank.GradeWassersteinLoss(), rows(), collate).compute_loss(Encoder(), one) > 0
    )
