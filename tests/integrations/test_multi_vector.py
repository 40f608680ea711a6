"""The losses in sentence-transformers' late-interaction trainer. Two processes: test_sentence_transformers.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wassrank

sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra st")
from datasets import Dataset  # noqa: E402
from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer  # noqa: E402
from sentence_transformers import MultiVectorEncoderTrainingArguments as Arguments  # noqa: E402
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss  # noqa: E402

from wassrank.integrations import multi_vector as mv  # noqa: E402

from .conftest import falls  # noqa: E402

CORE: dict[str, Any] = {
    "WassersteinLoss": wassrank.GradeWassersteinLoss,
    "GaussianWassersteinLoss": wassrank.GaussianWassersteinLoss,
    "ListwiseKLLoss": wassrank.ListwiseKLLoss,
    "InfoNCELoss": wassrank.InfoNCELoss,
    "CombinedLoss": wassrank.CombinedLoss,
}


@pytest.fixture
def encoder(minilm: str) -> Any:
    """MiniLM's first layer with a projection of tokens, without dropout."""
    torch.manual_seed(0)
    encoder = MultiVectorEncoder(minilm, device="cpu", config_kwargs={"num_hidden_layers": 1}).eval()
    encoder[0].model.embeddings.requires_grad_(False)
    return encoder


def features(encoder: Any, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Tensor]:
    """As the framework's collator makes them."""
    columns = [[row["query"] for row in rows], *map(list, zip(*(row["passages"] for row in rows), strict=True))]
    tasks = ["query", *["document"] * (len(columns) - 1)]
    inputs = [
        {**encoder.preprocess(texts, task=task), "task": task} for texts, task in zip(columns, tasks, strict=True)
    ]
    return inputs, torch.tensor([row["grades"] for row in rows])


def gradients(loss: Tensor, encoder: Any) -> list[Tensor]:
    used = [p for p in encoder.parameters() if p.requires_grad]
    return [g for g in torch.autograd.grad(loss, used, allow_unused=True) if g is not None]


def scores(encoder: Any, inputs: list[dict[str, Any]]) -> Tensor:
    """[B, B·n] query-major, MaxSim pair by pair."""
    (queries, real), *passages = (
        (found["token_embeddings"], found["attention_mask"].bool())
        for found in (encoder({**column}, task=column["task"]) for column in inputs)
    )
    B = len(queries)
    rows = []
    for i in range(B):
        query = queries[i][real[i]]
        rows += [(query @ column[j][mask[j]].T).max(1).values.sum() for j in range(B) for column, mask in passages]
    return torch.stack(rows).view(B, -1)


@pytest.mark.parametrize("in_batch", [0, None])
@pytest.mark.parametrize("name", CORE)
def test_it_is_the_core_loss_of_max_sim(
    name: str, in_batch: int | None, encoder: Any, sample: list[dict[str, Any]]
) -> None:
    inputs, labels = features(encoder, sample[:3])
    loss = getattr(mv, name)(encoder, scale=2, in_batch=in_batch, mini_batch_size=5, score_mini_batch_size=2)
    found = loss(inputs, labels)
    want = CORE[name](temperature=0.5, in_batch=in_batch)(scores(encoder, inputs), labels)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)
    for one, other in zip(gradients(found, encoder), gradients(want, encoder), strict=True):
        assert (one - other).norm() <= 2e-3 * other.norm() + 1e-6


def test_with_one_positive_it_is_the_frameworks_loss(encoder: Any, sample: list[dict[str, Any]]) -> None:
    inputs, _ = features(encoder, sample[:3])
    labels = torch.tensor([[1, 0, 0, 0]] * 3)
    theirs = MultiVectorMultipleNegativesRankingLoss(encoder)(inputs)
    torch.testing.assert_close(mv.InfoNCELoss(encoder)(inputs, labels), theirs, rtol=1e-4, atol=1e-5)


def test_own_passages_alone_are_what_kd_scores_give(encoder: Any, sample: list[dict[str, Any]]) -> None:
    inputs, labels = features(encoder, sample[:3])
    own = mv.WassersteinLoss(encoder, similarity_fct="colbert_kd_scores")(inputs, labels)
    torch.testing.assert_close(own, mv.WassersteinLoss(encoder, in_batch=None)(inputs, labels), rtol=1e-4, atol=1e-6)


@pytest.mark.full
def test_the_frameworks_trainer_learns(encoder: Any, sample: list[dict[str, Any]], tmp_path: Path) -> None:
    columns = {f"passage_{k}": [row["passages"][k] for row in sample[:4]] for k in range(4)}
    rows = Dataset.from_dict(
        {"query": [r["query"] for r in sample[:4]], **columns, "label": [r["grades"] for r in sample[:4]]}
    )
    arguments = Arguments(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    loss = mv.WassersteinLoss(encoder, target="linear")
    trainer = MultiVectorEncoderTrainer(model=encoder, args=arguments, train_dataset=rows, loss=loss)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 20
    assert falls(losses), losses


def test_a_config_makes_the_same_loss_again() -> None:
    loss = mv.GaussianWassersteinLoss(nn.Identity(), similarity_fct="mean_colbert_scores", mini_batch_size=8, scale=4)
    again = mv.GaussianWassersteinLoss(nn.Identity(), **json.loads(json.dumps(loss.get_config_dict())))
    assert again.get_config_dict() == loss.get_config_dict()
    assert again.wassrank.options == loss.wassrank.options
    assert again.similarity_fct is loss.similarity_fct


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing to gather": ({"similarity_fct": "colbert_kd_scores", "gather_across_devices": True}, "own passages alone"),
    "temperature twice": ({"scale": 1, "temperature": 1}, "pass one of them"),
    "no mini-batch": ({"mini_batch_size": 0}, "mini_batch_size must be at least 1"),
    "no such similarity": ({"similarity_fct": "cos_sim"}, "one of .*colbert_scores"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_option_is_refused(name: str) -> None:
    options, text = BAD[name]
    with pytest.raises(ValueError, match=text):
        mv.WassersteinLoss(nn.Identity(), **options)


def test_labels_of_the_wrong_width_are_refused(encoder: Any, sample: list[dict[str, Any]]) -> None:
    inputs, labels = features(encoder, sample[:2])
    with pytest.raises(ValueError, match=r"4 passages a query .* 3 grades a row"):
        mv.WassersteinLoss(encoder)(inputs, labels[:, :3])


def test_one_passage_a_query_needs_those_of_others(encoder: Any, sample: list[dict[str, Any]]) -> None:
    inputs, labels = features(encoder, sample[:2])
    with pytest.raises(ValueError, match="nothing to rank it against"):
        mv.WassersteinLoss(encoder, in_batch=None)(inputs[:2], labels[:, :1])
    with pytest.raises(ValueError, match="one text column"):
        mv.WassersteinLoss(encoder)(inputs[:1], labels)


def test_a_missing_passage_changes_nothing(encoder: Any, sample: list[dict[str, Any]]) -> None:
    inputs, labels = features(encoder, sample[:3])
    shorter = mv.WassersteinLoss(encoder)(inputs[:4], labels[:, :3])
    labels[:, 3] = -1
    torch.testing.assert_close(mv.WassersteinLoss(encoder, missing_label=-1)(inputs, labels), shorter)
