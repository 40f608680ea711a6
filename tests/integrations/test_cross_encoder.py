"""The losses in sentence-transformers' cross-encoder trainer: ragged lists, packed."""

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
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer  # noqa: E402
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments as Arguments  # noqa: E402
from sentence_transformers.cross_encoder.losses import ListNetLoss  # noqa: E402

from wassrank.integrations import cross_encoder as ce  # noqa: E402

from .conftest import falls  # noqa: E402

CORE: dict[str, Any] = {
    "WassersteinLoss": wassrank.GradeWassersteinLoss,
    "ListwiseKLLoss": wassrank.ListwiseKLLoss,
    "InfoNCELoss": wassrank.InfoNCELoss,
    "CombinedLoss": wassrank.CombinedLoss,
}


@pytest.fixture
def model(minilm: str) -> Any:
    """MiniLM's first layer with a head of one output, without dropout."""
    torch.manual_seed(0)
    model = CrossEncoder(minilm, num_labels=1, device="cpu", config_kwargs={"num_hidden_layers": 1}).eval()
    model.model.bert.embeddings.requires_grad_(False)
    return model


def ragged(sample: list[dict[str, Any]]) -> tuple[list[Any], list[Tensor]]:
    """Lists of 4, 3, 2, 1 and 4 documents, as the framework's collator has them."""
    lengths = [4, 3, 2, 1, 4]
    rows = list(zip(sample, lengths, strict=False))
    inputs = [[row["query"] for row, _ in rows], [row["passages"][:n] for row, n in rows]]
    return inputs, [torch.tensor(row["grades"][:n]) for row, n in rows]


def gradients(loss: Tensor, model: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))


@pytest.mark.parametrize("mini_batch_size", [None, 0, 3])
@pytest.mark.parametrize("name", CORE)
def test_ragged_lists_give_what_padded_ones_give_the_core_loss(
    name: str, mini_batch_size: int | None, model: Any, sample: list[dict[str, Any]]
) -> None:
    inputs, labels = ragged(sample)
    options = {"temperature": 0.1}
    found = getattr(ce, name)(model, mini_batch_size=mini_batch_size, **options)(inputs, labels)

    longest = max(map(len, labels))
    rows, grades = torch.zeros(0, longest), torch.zeros(len(labels), longest, dtype=torch.long)
    mask = torch.zeros(len(labels), longest, dtype=torch.bool)
    for i, (query, documents) in enumerate(zip(*inputs, strict=True)):
        own = model(model.preprocess([(query, document) for document in documents]))["scores"].view(1, -1)
        rows = torch.cat([rows, nn.functional.pad(own, (0, longest - len(documents)))])
        grades[i, : len(documents)], mask[i, : len(documents)] = labels[i], True
    want = CORE[name](**options)(rows, grades, mask=mask)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)
    for one, other in zip(gradients(found, model), gradients(want, model), strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm() + 1e-6


def test_kl_is_list_net_but_for_the_labels_entropy(model: Any, sample: list[dict[str, Any]]) -> None:
    inputs, labels = ragged(sample)
    ours, theirs = ce.ListwiseKLLoss(model)(inputs, labels), ListNetLoss(model)(inputs, labels)
    entropy = sum(torch.distributions.Categorical(logits=own.float()).entropy() for own in labels) / len(labels)
    torch.testing.assert_close(ours + entropy, theirs, rtol=1e-4, atol=1e-5)


def test_labels_may_be_a_teachers_scores(model: Any, sample: list[dict[str, Any]]) -> None:
    inputs, labels = ragged(sample)
    loss = ce.WassersteinLoss(model, target="softmax")
    torch.testing.assert_close(loss(inputs, [own.float() for own in labels]), loss(inputs, labels), rtol=1e-5, atol=0)


def test_the_frameworks_trainer_learns_from_ragged_lists(
    model: Any, sample: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows = [{"n": 4 - (i % 3), **row} for i, row in enumerate(sample[:4])]
    dataset = Dataset.from_dict(
        {
            "query": [row["query"] for row in rows],
            "documents": [row["passages"][: row["n"]] for row in rows],
            "label": [row["grades"][: row["n"]] for row in rows],
        }
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
    loss = ce.WassersteinLoss(model, temperature=0.2, target="linear")
    trainer = CrossEncoderTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 20
    assert falls(losses), losses
    trainer.save_model(str(tmp_path / "model"))
    assert "Multiple Levels of Relevance" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


CONFIGS: dict[str, dict[str, Any]] = {
    "WassersteinLoss": {"temperature": 0.5, "p": 2, "mini_batch_size": 16},
    "CombinedLoss": {"kl": 0.5, "activation_fn": "torch.nn.modules.activation.Sigmoid"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_makes_the_same_loss_again(name: str) -> None:
    loss = getattr(ce, name)(nn.Identity(), **CONFIGS[name])
    again = getattr(ce, name)(nn.Identity(), **json.loads(json.dumps(loss.get_config_dict())))
    assert again.get_config_dict() == loss.get_config_dict()
    assert again.wassrank.options == loss.wassrank.options
    assert type(again.activation_fn) is type(loss.activation_fn)


TWO, ONE = torch.tensor([1, 0]), torch.tensor([1])
BAD: dict[str, tuple[Any, Any, str]] = {
    "three columns": ([["q"], ["d"], ["e"]], [TWO], "takes two columns"),
    "a text a row": ([["q"], ["d"]], [TWO], "a list of documents is needed"),
    "one number a row": ([["q"], [["d", "e"]]], ONE, "holds one number a row: make it a list"),
    "no labels": ([["q"], [["d", "e"]]], None, "holds nothing a row"),
    "too few grades": ([["q", "r"], [["d", "e"], ["f"]]], [ONE, ONE], r"\[2, 1\] and grades a query \[1, 1\]"),
    "one document": ([["q", "r"], [["d"], ["e"]]], [ONE, ONE], "nothing to rank"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_the_model_runs(name: str) -> None:
    inputs, labels, text = BAD[name]
    with pytest.raises(ValueError, match=text):
        ce.WassersteinLoss(nn.Identity())(inputs, labels)


def test_a_bad_option_is_refused(minilm: str) -> None:
    with pytest.raises(TypeError, match="in_batch has no meaning"):
        ce.WassersteinLoss(nn.Identity(), in_batch=0)
    with pytest.raises(ValueError, match="one number a batch"):
        ce.WassersteinLoss(nn.Identity(), reduction="none")
    two = CrossEncoder(minilm, num_labels=2, device="cpu", config_kwargs={"num_hidden_layers": 1})
    with pytest.raises(ValueError, match="this model has 2 outputs"):
        ce.WassersteinLoss(two)
