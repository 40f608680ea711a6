"""The losses in sentence-transformers' bi-encoder trainer: its order of passages, its config, its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wassrank

sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra st")
from datasets import Dataset  # noqa: E402
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer  # noqa: E402
from sentence_transformers import SentenceTransformerTrainingArguments as Arguments  # noqa: E402
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator  # noqa: E402
from sentence_transformers.sentence_transformer.losses import (  # noqa: E402
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import cos_sim, dot_score  # noqa: E402

from wassrank.integrations import sentence_transformers as st  # noqa: E402
from wassrank.testing import check_adapter  # noqa: E402

from .conftest import falls  # noqa: E402
from .gather_worker import CASES, step  # noqa: E402

CORE: dict[str, Any] = {
    "WassersteinLoss": wassrank.GradeWassersteinLoss,
    "GaussianWassersteinLoss": wassrank.GaussianWassersteinLoss,
    "ListwiseKLLoss": wassrank.ListwiseKLLoss,
    "InfoNCELoss": wassrank.InfoNCELoss,
    "CombinedLoss": wassrank.CombinedLoss,
}
B, K = 5, 3


@pytest.fixture
def model(minilm: str) -> Any:
    """MiniLM's first layer, without dropout; what a test trains is that layer, its table of words stays."""
    model = SentenceTransformer(minilm, device="cpu", config_kwargs={"num_hidden_layers": 1}).eval()
    model[0].model.embeddings.requires_grad_(False)
    return model


def embeddings() -> tuple[list[Tensor], Tensor]:
    """Of each column, [B, d], and grades [B, K]."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(1 + K, B, 8, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[0, 3, 1], [2, 0, 0], [1, 3, 3], [3, 2, 0], [0, 1, 0]])
    return [column.clone().requires_grad_() for column in columns], labels


def gradients(loss: Tensor, of: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of))


def features(model: Any, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Tensor]], Tensor]:
    """As the framework's collator makes them."""
    columns = [[row["query"] for row in rows], *map(list, zip(*(row["passages"] for row in rows), strict=True))]
    return [model.preprocess(texts) for texts in columns], torch.tensor([row["grades"] for row in rows])


def dataset(rows: list[dict[str, Any]]) -> Any:
    columns = {f"passage_{k}": [row["passages"][k] for row in rows] for k in range(len(rows[0]["passages"]))}
    return Dataset.from_dict({"query": [row["query"] for row in rows], **columns, "label": [r["grades"] for r in rows]})


@pytest.mark.parametrize("in_batch", [0, None])
@pytest.mark.parametrize("similarity", [cos_sim, dot_score], ids=lambda f: f.__name__)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", CORE)
def test_it_is_the_core_loss_of_the_frameworks_scores(
    name: str, cached: bool, similarity: Any, in_batch: int | None
) -> None:
    """The reference takes scores as this framework lays them out, all first passages, all second ones, …, and says of
    each column what it is."""
    columns, labels = embeddings()
    loss = getattr(st, f"Cached{name}" if cached else name)(
        nn.Identity(), scale=5, similarity_fct=similarity, in_batch=in_batch
    )
    found = loss.compute_loss_from_embeddings(columns, labels)

    scores = similarity(columns[0], torch.cat(columns[1:]))
    own = torch.eye(B, dtype=torch.bool).repeat(1, K)
    dense = torch.where(own, labels.repeat_interleave(B, 1), 0)
    mask = own if in_batch is None else None
    # Where own grades are all 0 InfoNCE's positives are the own passages of grade 0: there is no such row here.
    want = CORE[name](temperature=1 / 5)(scores, dense, mask=mask)
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-12)
    for one, other in zip(gradients(found, columns), gradients(want, columns), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_passages_taken_query_by_query_would_be_another_loss() -> None:
    columns, labels = embeddings()
    misread = cos_sim(columns[0], torch.cat(columns[1:]))
    right = st.WassersteinLoss(nn.Identity()).compute_loss_from_embeddings(columns, labels)
    assert abs(wassrank.grade_wasserstein(misread, labels, temperature=0.05) - right) > 0.1


@pytest.mark.parametrize("name", ["WassersteinLoss", "CachedWassersteinLoss", "GaussianWassersteinLoss"])
def test_it_passes_the_check_for_adapters(name: str) -> None:
    loss = getattr(st, name)(nn.Identity(), scale=2, target="exp2", missing_label=-1)
    core = CORE[name.removeprefix("Cached")](temperature=1 / 2, target="exp2")
    call = loss.compute_loss_from_embeddings
    check_adapter(call, convention="columns", expected=core, padding=-1, similarity="cosine")


def test_with_one_positive_it_is_multiple_negatives_ranking(model: Any, sample: list[dict[str, Any]]) -> None:
    inputs, labels = features(model, sample[:4])
    labels = torch.tensor([[1, 0, 0, 0]] * 4)
    parameters = [p for p in model.parameters() if p.requires_grad and p.dim() > 1][:6]
    ours = st.InfoNCELoss(model)(inputs, labels)
    theirs = MultipleNegativesRankingLoss(model)(inputs, labels)
    assert abs(ours - theirs) < 1e-5
    for one, other in zip(gradients(ours, parameters), gradients(theirs, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def model_gradients(model: Any, loss: nn.Module, inputs: Any, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    value = loss([dict(column) for column in inputs], labels)
    value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("matryoshka", [False, True])
@pytest.mark.parametrize("name", ["WassersteinLoss", "GaussianWassersteinLoss"])
def test_cached_gives_the_model_the_same_gradients(
    name: str, matryoshka: bool, model: Any, sample: list[dict[str, Any]]
) -> None:
    inputs, labels = features(model, sample[:6])

    def of(kind: str, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss = getattr(st, kind)(model, target="exp2", **options)
        wrapped = MatryoshkaLoss(model, loss, [384, 64], [1, 0.5]) if matryoshka else loss
        return model_gradients(model, wrapped, inputs, labels)

    want, plain = of(name)
    found, cached = of(f"Cached{name}", mini_batch_size=4)
    assert abs(found - want) <= 1e-5 * abs(want)
    for parameter, gradient in plain.items():
        assert (cached[parameter] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7


def test_cached_meets_the_same_dropout_twice(model: Any, sample: list[dict[str, Any]]) -> None:
    """Column by column, as the cached form embeds them, with the same draws: then its gradients are those of the
    embeddings that its loss saw, which they are only if the second pass draws what the first did."""
    model[0].model.train()
    inputs, labels = features(model, sample[:4])
    torch.manual_seed(0)
    columns = [model(dict(column))["sentence_embedding"] for column in inputs]
    model.zero_grad()
    want = st.WassersteinLoss(model, target="exp2").compute_loss_from_embeddings(columns, labels)
    want.backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    torch.manual_seed(0)
    loss = st.CachedWassersteinLoss(model, target="exp2", mini_batch_size=4)
    found, cached = model_gradients(model, loss, inputs, labels)
    assert abs(found - want) <= 1e-5 * abs(want)
    for parameter, gradient in plain.items():
        assert (cached[parameter] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7


@pytest.mark.parametrize("name", ["WassersteinLoss", "CachedWassersteinLoss", "GaussianWassersteinLoss"])
def test_evaluation_has_the_same_loss_without_a_gradient(name: str, model: Any, sample: list[dict[str, Any]]) -> None:
    inputs, labels = features(model, sample[:4])
    loss = getattr(st, name)(model)
    trained = loss([dict(column) for column in inputs], labels)
    with torch.no_grad():
        evaluated = loss([dict(column) for column in inputs], labels)
    assert not evaluated.requires_grad
    torch.testing.assert_close(evaluated, trained.detach(), rtol=1e-5, atol=0)


def test_matryoshka_is_the_weighted_sum_over_widths(model: Any, sample: list[dict[str, Any]]) -> None:
    inputs, labels = features(model, sample[:4])
    loss = st.WassersteinLoss(model)
    columns = [model(dict(column))["sentence_embedding"] for column in inputs]
    # Cosines, so that it does not matter that Matryoshka normalises.
    whole, part = (loss.compute_loss_from_embeddings([c[:, :n] for c in columns], labels) for n in (384, 64))
    found = MatryoshkaLoss(model, loss, [384, 64], [1, 3])(inputs, labels)
    torch.testing.assert_close(found, whole + 3 * part)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name: str, shared: list[Any]) -> None:
    want, want_gradients = step(name)
    losses = [process[name][0] for process in shared]
    assert abs(sum(losses) / 2 - want) <= 1e-9
    for process in shared:
        for found, gradient in zip(process[name][1], want_gradients, strict=True):
            assert (found - gradient).norm() <= 1e-7 * gradient.norm() + 1e-12


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, run_two: Callable[[str, Path], list[Any]]) -> list[Any]:
    return run_two("gather_worker", tmp_path_factory.mktemp("gather"))


LOSSES: dict[str, dict[str, Any]] = {
    "WassersteinLoss": {"target": "linear"},
    "GaussianWassersteinLoss": {"target": "exp2", "scale": 50},
    "CachedWassersteinLoss": {"target": "linear", "mini_batch_size": 4},
}


def train(loss: nn.Module, model: Any, rows: Any, folder: Path, steps: int = 20, **options: Any) -> list[float]:
    arguments = Arguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-4,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss)
    trainer.train()
    trainer.save_model(str(folder / "model"))
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    "name", [name if name == "WassersteinLoss" else pytest.param(name, marks=pytest.mark.full) for name in LOSSES]
)
def test_the_frameworks_trainer_learns(name: str, model: Any, sample: list[dict[str, Any]], tmp_path: Path) -> None:
    losses = train(getattr(st, name)(model, **LOSSES[name]), model, dataset(sample[:8]), tmp_path)
    assert len(losses) == 20
    assert falls(losses), losses
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert name in card
    assert "Multiple Levels of Relevance" in card


@pytest.mark.full
def test_it_learns_inside_matryoshka(model: Any, sample: list[dict[str, Any]], tmp_path: Path) -> None:
    loss = MatryoshkaLoss(model, st.WassersteinLoss(model, target="linear"), [384, 64])
    assert falls(train(loss, model, dataset(sample[:8]), tmp_path))


CONFIGS: dict[str, dict[str, Any]] = {
    "WassersteinLoss": {"scale": 10, "p": 2, "in_batch": None, "similarity_fct": "dot_score", "position": [0, 1, 3, 7]},
    "GaussianWassersteinLoss": {"temperature": 0.02, "gather_across_devices": True, "covariance": "diagonal"},
    "CombinedLoss": {"kl": 0.1, "missing_label": -1},
    "CachedInfoNCELoss": {"negative_grade": 1, "mini_batch_size": 4, "gather_across_devices": "ring"},
    "CachedListwiseKLLoss": {"label_temperature": 0.5, "mini_batch_num_tokens": 100},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_makes_the_same_loss_again(name: str) -> None:
    loss = getattr(st, name)(nn.Identity(), **CONFIGS[name])
    config = json.loads(json.dumps(loss.get_config_dict()))
    again = getattr(st, name)(nn.Identity(), **config)
    assert again.get_config_dict() == loss.get_config_dict()
    assert again.wassrank.options == loss.wassrank.options
    assert again.similarity_fct is loss.similarity_fct


def test_a_missing_passage_changes_nothing() -> None:
    columns, labels = embeddings()
    labels[:, 2] = -1
    shorter = st.WassersteinLoss(nn.Identity()).compute_loss_from_embeddings(columns[:3], labels[:, :2])
    for kind in (st.WassersteinLoss, st.CachedWassersteinLoss):
        loss = kind(nn.Identity(), missing_label=-1).compute_loss_from_embeddings(columns, labels)
        torch.testing.assert_close(loss, shorter)
        assert torch.equal(gradients(loss, columns)[3], torch.zeros_like(columns[3]))


def test_float_labels_are_a_teachers_scores() -> None:
    columns, labels = embeddings()
    loss = st.WassersteinLoss(nn.Identity(), in_batch=None, target="softmax")
    whole = loss.compute_loss_from_embeddings(columns, labels)
    torch.testing.assert_close(loss.compute_loss_from_embeddings(columns, labels.double()), whole)
    assert loss.compute_loss_from_embeddings(columns, labels + 0.3 * torch.rand(B, K)) != whole


def test_scores_stay_float32_under_autocast() -> None:
    columns, labels = embeddings()
    single = [column.float() for column in columns]
    loss = st.WassersteinLoss(nn.Identity())
    want = loss.compute_loss_from_embeddings(single, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss.compute_loss_from_embeddings(single, labels), want)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "temperature twice": ({"scale": 20, "temperature": 0.05}, ValueError, r"scale is 1 / temperature.*pass one"),
    "no scale": ({"scale": 0}, ValueError, "scale must be a positive"),
    "no temperature": ({"temperature": -1}, ValueError, "temperature must be a positive"),
    "no such similarity": ({"similarity_fct": "cosine"}, ValueError, "one of .*cos_sim"),
    "the core's gather": ({"gather": True}, TypeError, "gather_across_devices=True"),
    "a ring without cache": ({"gather_across_devices": "ring"}, ValueError, "gather_across_devices must be"),
    "no number": ({"reduction": "none"}, ValueError, "one number a batch"),
    "no such option": ({"margin": 1}, TypeError, "margin"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_is_refused(name: str) -> None:
    options, error, text = BAD_OPTIONS[name]
    with pytest.raises(error, match=text):
        st.WassersteinLoss(nn.Identity(), **options)


def test_queries_of_several_processes_are_not_ranked() -> None:
    with pytest.raises(ValueError, match="pass gather_across_devices=False"):
        st.InfoNCELoss(nn.Identity(), symmetric=True, gather_across_devices=True)


def test_ragged_labels_stop_in_the_frameworks_collator_and_filled_ones_pass(
    model: Any, sample: list[dict[str, Any]]
) -> None:
    """What docs/integrations/sentence_transformers.md says of its message."""
    collate = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)
    rows = [{"query": row["query"], "one": row["passages"][0], "two": row["passages"][1]} for row in sample[:2]]
    with pytest.raises(ValueError, match="expected sequence of length 2 at dim 1 \\(got 1\\)"):
        collate([row | {"label": label} for row, label in zip(rows, ([3, 1], [2]), strict=True)])
    batch = collate([row | {"label": label} for row, label in zip(rows, ([3, 1], [2, -1]), strict=True)])
    columns = [model(model.preprocess([row[name] for row in rows]))["sentence_embedding"] for name in rows[0]]
    loss = st.WassersteinLoss(model, missing_label=-1)
    assert loss.compute_loss_from_embeddings(columns, batch["label"]) > 0


def test_the_cached_form_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="euclidean_sim take WassersteinLoss"):
        st.CachedWassersteinLoss(nn.Identity(), similarity_fct="euclidean_sim")
    with pytest.raises(ValueError, match="at least 1"):
        st.CachedWassersteinLoss(nn.Identity(), mini_batch_size=0)
    columns, labels = embeddings()
    with pytest.raises(TypeError, match=r"cast_column.*or take WassersteinLoss"):
        st.CachedWassersteinLoss(nn.Identity()).compute_loss_from_embeddings(columns, labels.float())


BAD_LABELS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "too few": (lambda labels: labels[:, :2], r"3 passages a query .* holds 2 grades a row.*list of 3"),
    "one a row": (lambda labels: labels[:, 0], r"holds one number a row"),
    "none": (lambda labels: None, r"add a column named 'label'"),
    "a missing passage, unsaid": (lambda labels: labels - 1, r"holds -1, .*pass missing_label=-1"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
@pytest.mark.parametrize("kind", [st.WassersteinLoss, st.CachedWassersteinLoss])
def test_labels_of_the_wrong_width_are_refused(name: str, kind: Any) -> None:
    columns, labels = embeddings()
    change, text = BAD_LABELS[name]
    with pytest.raises(ValueError, match=text):
        kind(nn.Identity()).compute_loss_from_embeddings(columns, change(labels))


def test_a_passage_is_needed_and_something_to_rank_it_against() -> None:
    columns, labels = embeddings()
    with pytest.raises(ValueError, match="one text column"):
        st.WassersteinLoss(nn.Identity()).compute_loss_from_embeddings(columns[:1], labels)
    with pytest.raises(ValueError, match="nothing to rank it against"):
        st.WassersteinLoss(nn.Identity(), in_batch=None).compute_loss_from_embeddings(columns[:2], labels[:, :1])
    one = st.WassersteinLoss(nn.Identity())
    pairs = one.compute_loss_from_embeddings(columns[:2], labels[:, 0])  # a label column of plain numbers
    assert torch.equal(pairs, one.compute_loss_from_embeddings(columns[:2], labels[:, :1]))
