"""The losses in PyLate: on its encoder's scores, in its two kinds of data set, in its trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wassrank

pytest.importorskip("pylate", reason="needs the extra pylate, which cannot stand beside the extra st")
from datasets import Dataset
from pylate.losses import Contrastive
from pylate.utils import ColBERTCollator, KDProcessing
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from wassrank.integrations import pylate as pl

from .conftest import falls
from .pylate_worker import CASES, columns, encoder, step

CORE: dict[str, Any] = {
    "WassersteinLoss": wassrank.GradeWassersteinLoss,
    "GaussianWassersteinLoss": wassrank.GaussianWassersteinLoss,
    "ListwiseKLLoss": wassrank.ListwiseKLLoss,
    "InfoNCELoss": wassrank.InfoNCELoss,
    "CombinedLoss": wassrank.CombinedLoss,
}
N = 3
"""Passages a query."""


@pytest.fixture(scope="module")
def model() -> Any:
    return encoder()


def gradients(loss: Tensor, model: Any) -> list[Tensor]:
    used = [p for p in model.parameters() if p.requires_grad]
    return [g for g in torch.autograd.grad(loss, used, allow_unused=True) if g is not None]


def scores(model: Any, features: list[dict[str, Tensor]]) -> Tensor:
    """[B, B·n] query-major, pair by pair, as PyLate means MaxSim: every token of an expanded query, a passage's tokens
    but for padding and punctuation, which count 0."""
    queries, *passages = (nn.functional.normalize(model(f)["token_embeddings"], dim=-1) for f in features)
    real = [
        model.skiplist_mask(input_ids=f["input_ids"], skiplist=model.skiplist) & f["attention_mask"].bool()
        for f in features[1:]
    ]
    rows = []
    for query in queries:
        for j in range(len(queries)):
            for column, mask in zip(passages, real, strict=True):
                rows.append(((query @ column[j].T) * mask[j]).max(1).values.sum())
    return torch.stack(rows).view(len(queries), -1)


@pytest.mark.parametrize("in_batch", [0, None])
@pytest.mark.parametrize("name", CORE)
def test_it_is_the_core_loss_of_its_scores(name: str, in_batch: int | None, model: Any) -> None:
    features, grades = columns(model)
    loss = getattr(pl, name)(model, temperature=0.5, in_batch=in_batch, missing_label=-1, score_mini_batch_size=3)
    found = loss(features, grades)
    want = CORE[name](temperature=0.5, in_batch=in_batch)(
        scores(model, features), grades.clamp(min=0), mask=grades >= 0
    )
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-12)
    for one, other in zip(gradients(found, model), gradients(want, model), strict=True):
        assert (one - other).norm() <= 1e-7 * other.norm() + 1e-12


@pytest.mark.parametrize("metric", ["ColBERTScores", "colbert_kd_scores"])
def test_lists_of_documents_are_as_columns(metric: str, model: Any) -> None:
    (apart, grades), (listed, _) = columns(model), columns(model, listed=True)
    loss = pl.WassersteinLoss(model, score_metric=metric, missing_label=-1)
    torch.testing.assert_close(loss(listed, grades), loss(apart, grades), rtol=1e-9, atol=0)


def test_own_passages_alone_are_what_kd_scores_give(model: Any) -> None:
    features, grades = columns(model)
    own = pl.WassersteinLoss(model, score_metric="colbert_kd_scores", missing_label=-1)(features, grades)
    alone = pl.WassersteinLoss(model, in_batch=None, missing_label=-1)(features, grades)
    torch.testing.assert_close(own, alone, rtol=1e-9, atol=0)


def test_with_one_positive_it_is_pylates_loss(model: Any) -> None:
    features, _ = columns(model)
    grades = torch.tensor([[1, 0, 0]] * 4)
    theirs = Contrastive(model, temperature=0.5)(features)
    torch.testing.assert_close(pl.InfoNCELoss(model, temperature=0.5)(features, grades), theirs, rtol=1e-9, atol=0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, run_two: Callable[[str, Path], list[Any]]) -> list[Any]:
    return run_two("pylate_worker", tmp_path_factory.mktemp("pylate"))


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name: str, shared: list[Any]) -> None:
    want, want_gradients = step(name)
    losses = [process[name][0] for process in shared]
    assert abs(sum(losses) / 2 - want) <= 1e-9
    for process in shared:
        for found, gradient in zip(process[name][1], want_gradients, strict=True):
            assert (found - gradient).norm() <= 1e-7 * gradient.norm() + 1e-12


def by_columns(sample: list[dict[str, Any]]) -> Any:
    passages = {f"passage_{k}": [row["passages"][k] for row in sample] for k in range(4)}
    return Dataset.from_dict(
        {"query": [r["query"] for r in sample], **passages, "label": [r["grades"] for r in sample]}
    )


def for_distillation(sample: list[dict[str, Any]]) -> Any:
    """Three sets, which KDProcessing joins."""
    ids = [[f"{i}-{k}" for k in range(4)] for i in range(len(sample))]
    flat = {
        "document_id": [i for own in ids for i in own],
        "text": [text for row in sample for text in row["passages"]],
    }
    queries = {"query_id": list(range(len(sample))), "text": [row["query"] for row in sample]}
    train = Dataset.from_dict(
        {"query_id": queries["query_id"], "document_ids": ids, "scores": [row["grades"] for row in sample]}
    )
    joined = KDProcessing(queries=Dataset.from_dict(queries), documents=Dataset.from_dict(flat))
    train.set_transform(joined.transform)
    return train


DATASETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "columns": (by_columns, {}),
    "distillation": (for_distillation, {"score_metric": "colbert_kd_scores"}),
}


@pytest.mark.full
@pytest.mark.parametrize("name", DATASETS)
def test_its_trainer_learns(name: str, sample: list[dict[str, Any]], tmp_path: Path) -> None:
    model = encoder().float()
    make, options = DATASETS[name]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=make(sample[:4]),
        loss=pl.WassersteinLoss(model, target="linear", **options),
        data_collator=ColBERTCollator(model.tokenize),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 20
    assert falls(losses), losses


def test_a_config_makes_the_same_loss_again() -> None:
    loss = pl.CombinedLoss(nn.Identity(), score_metric="colbert_kd_scores", temperature=0.5, kl=0.1, in_batch=None)
    again = pl.CombinedLoss(nn.Identity(), **json.loads(json.dumps(loss.get_config_dict())))
    assert again.get_config_dict() == loss.get_config_dict()
    assert again.wassrank.options == loss.wassrank.options
    assert again.similarity_fct is loss.similarity_fct


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing to gather": ({"score_metric": "colbert_kd_scores", "gather_across_devices": True}, "own passages alone"),
    "no mini-batch": ({"score_mini_batch_size": 0}, "score_mini_batch_size must be at least 1"),
    "no such metric": ({"score_metric": "cos_sim"}, "score_metric must be .*one of .*ColBERTScores"),
    "no temperature": ({"temperature": 0}, "temperature must be a positive"),
    "no number": ({"reduction": "none"}, "one number a batch"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_option_is_refused(name: str) -> None:
    options, text = BAD[name]
    with pytest.raises(ValueError, match=text):
        pl.WassersteinLoss(nn.Identity(), **options)


@pytest.mark.parametrize("listed", [False, True])
def test_labels_of_the_wrong_width_are_refused(listed: bool, model: Any) -> None:
    features, grades = columns(model, listed=listed)
    with pytest.raises(ValueError, match=r"3 passages a query .* 2 grades a row"):
        pl.WassersteinLoss(model)(features, grades[:, :2])
    with pytest.raises(ValueError, match="add a column named 'label'"):
        pl.WassersteinLoss(model)(features, None)


def test_lists_of_different_lengths_are_refused(model: Any) -> None:
    features, grades = columns(model, listed=True)
    one_less = {name: tokens[:-1] for name, tokens in features[1].items()}
    with pytest.raises(ValueError, match=r"11 documents for 4 queries.*missing_label"):
        pl.WassersteinLoss(model)([features[0], one_less], grades)


def test_one_passage_a_query_needs_those_of_others(model: Any) -> None:
    features, grades = columns(model)
    with pytest.raises(ValueError, match="nothing to rank it against"):
        pl.WassersteinLoss(model, in_batch=None)(features[:2], grades[:, :1])
    assert pl.WassersteinLoss(model, missing_label=-1)(features[:2], grades[:, :1]) > 0
