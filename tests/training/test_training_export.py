"""Exported data says what the collection says, and the libraries it is for read it.

Their readers need `datasets`, and PyLate's PyLate: without these only the content is checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from training import export
from training.collection_writer import CollectionWriter
from training.data import read_collection

COLUMNS, LISTS = "sentence-transformers-columns", "sentence-transformers-lists"


@pytest.fixture
def ragged(collection_folder: Path) -> Path:
    """The collection, of whose training queries q0 has no passage of grade 3 and q1 none of grades 0 and 1."""
    path = collection_folder / "qrels" / "train.tsv"
    gone = ("q0_g3", "q1_g0", "q1_g1")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.split("\t")[1] not in gone]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return collection_folder


def exported(data: Path, to: str, *options: str) -> Path:
    out = data.parent / f"exported-{to}"
    assert export.main([str(data), "--to", to, "--out", str(out), *options]) == 0
    return out


def records(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_tevatron_gets_two_grades(ragged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection = read_collection(ragged, ["train"])
    rows = records(exported(ragged, "tevatron") / "train.jsonl")
    assert [row["query_id"] for row in rows] == [f"q{i}" for i in range(8) if i != 1]  # q1 has no negative
    assert capsys.readouterr().out.startswith("7 queries written, 1 left out")
    for row in rows:
        assert row["query"] == collection.queries[row["query_id"]]
        judged = collection.qrels["train"][row["query_id"]]
        for side in ("positive", "negative"):
            written = {passage["docid"]: passage["text"] for passage in row[f"{side}_passages"]}
            expected = {p for p, grade in judged.items() if (grade >= 2) == (side == "positive")}
            assert written == {passage: collection.corpus[passage] for passage in expected}


def test_tevatron_leaves_out_what_its_reader_cannot_take(ragged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = records(exported(ragged, "tevatron", "--relevant-grade", "3") / "train.jsonl")
    assert [row["query_id"] for row in rows] == [f"q{i}" for i in range(1, 8)]
    assert [passage["docid"] for passage in rows[0]["negative_passages"]] == ["q1_g2"]


def test_lists_hold_every_passage_best_first(ragged: Path) -> None:
    collection = read_collection(ragged, ["train"])
    rows = records(exported(ragged, LISTS) / "train.jsonl")
    assert [row["labels"] for row in rows] == [[2, 1, 0], [3, 2], *[[3, 2, 1, 0]] * 6]
    for row, (query, judged) in zip(rows, collection.qrels["train"].items(), strict=True):
        best_first = sorted(judged, key=lambda passage: -judged[passage])
        assert row["query"] == collection.queries[query]
        assert row["passages"] == [collection.corpus[passage] for passage in best_first]


@pytest.mark.parametrize(
    ("options", "count", "first"), [((), 8, 2), (("--group-size", "3"), 7, 3), (("--group-size", "4"), 6, 4)]
)
def test_columns_are_as_many_for_every_query(
    options: tuple[str, ...], count: int, first: int, ragged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = records(exported(ragged, COLUMNS, *options) / "train.jsonl")
    assert capsys.readouterr().out.startswith(f"{count} queries written, {8 - count} left out")
    assert len(rows) == count
    for row in rows:
        assert list(row) == ["query", *[f"passage_{i}" for i in range(1, first + 1)], "labels"]
        assert row["labels"] == sorted(row["labels"], reverse=True)
        assert len(row["labels"]) == first


def test_pylate_gets_three_tables_each_text_once(ragged: Path) -> None:
    out = exported(ragged, "pylate", "--group-size", "3")
    collection = read_collection(ragged, ["train"])
    rows, queries, documents = (records(out / f"{name}.jsonl") for name in ("train", "queries", "documents"))
    texts = {document["document_id"]: document["text"] for document in documents}
    assert len(texts) == len(documents)
    assert texts == {passage: collection.corpus[passage] for row in rows for passage in row["document_ids"]}
    assert {query["query_id"]: query["text"] for query in queries} == {
        row["query_id"]: collection.queries[row["query_id"]] for row in rows
    }
    for row in rows:
        judged = collection.qrels["train"][row["query_id"]]
        assert row["scores"] == [judged[passage] for passage in row["document_ids"]]


def test_a_passage_of_two_queries_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    with CollectionWriter(tmp_path / "shared") as writer:
        writer.add("q0", "one", [("p0", "shared", 3), ("p1", "other", 0)])
        writer.add("q1", "two", [("p2", "another", 3)])
    with (tmp_path / "shared" / "qrels" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("q1\tp0\t1\n")
    documents = records(exported(tmp_path / "shared", "pylate") / "documents.jsonl")
    assert [document["document_id"] for document in documents] == ["p0", "p1", "p2"]


def test_ids_stay_unique_over_several_corpora(collection_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shouted = (collection_folder / "corpus.jsonl").read_text(encoding="utf-8").replace('"w', '"W')
    (other / "corpus.jsonl").write_text(shouted, encoding="utf-8")
    shared = {"queries": "collection/queries.jsonl", "qrels": "collection/qrels/train.tsv"}
    sources = [{"folder": "collection"}, {"corpus": "other/corpus.jsonl", **shared}]
    (tmp_path / "data.yaml").write_text(
        json.dumps({"group_size": 8, "train": sources}), encoding="utf-8"
    )  # JSON is YAML
    out = exported(tmp_path / "data.yaml", "pylate")
    documents = records(out / "documents.jsonl")
    assert len({document["document_id"] for document in documents}) == len(documents) == 64
    assert records(out / "train.jsonl")[0]["scores"] == [3, 3, 2, 2, 1, 1, 0, 0]


def test_data_of_which_nothing_can_be_written_is_refused(
    collection_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(collection_folder), "--to", COLUMNS, "--out", str(tmp_path / "out"), "--group-size", "5"]
    assert export.main(arguments) == 1
    assert "no query can be written as sentence-transformers-columns, all 8 are left out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# From here on: the libraries themselves.


def loaded(path: Path, cache: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache))


def test_sentence_transformers_trains_on_the_columns(ragged: Path, model_folder: Path, tmp_path: Path) -> None:
    """Its own list-wise loss for bi-encoders, whose labels are a score a passage."""
    pytest.importorskip("datasets")
    st = pytest.importorskip("sentence_transformers")
    losses = pytest.importorskip("sentence_transformers.losses")
    rows = loaded(exported(ragged, COLUMNS, "--group-size", "3") / "train.jsonl", tmp_path / "cache")
    model = st.SentenceTransformer(str(model_folder), device="cpu")
    seen: list[list[list[float]]] = []

    class Spy(losses.DistillKLDivLoss):  # type: ignore[name-defined,misc]
        def forward(self, sentence_features: Any, labels: torch.Tensor) -> torch.Tensor:
            assert len(list(sentence_features)) == 4  # the query and three passages
            seen.append(labels.tolist())
            value: torch.Tensor = super().forward(sentence_features, labels)
            return value

    arguments = st.SentenceTransformerTrainingArguments(
        str(tmp_path / "st"), max_steps=1, per_device_train_batch_size=7, report_to="none", save_strategy="no"
    )
    st.SentenceTransformerTrainer(model, arguments, train_dataset=rows, loss=Spy(model)).train()
    assert sorted(seen[0]) == sorted(rows["labels"])


def test_sentence_transformers_trains_on_the_lists(ragged: Path, model_folder: Path, tmp_path: Path) -> None:
    """Its LambdaLoss for cross-encoders, on lists of differing lengths."""
    pytest.importorskip("datasets")
    cross = pytest.importorskip("sentence_transformers.cross_encoder")
    losses = pytest.importorskip("sentence_transformers.cross_encoder.losses")
    rows = loaded(exported(ragged, LISTS) / "train.jsonl", tmp_path / "cache")
    assert {len(labels) for labels in rows["labels"]} == {2, 3, 4}
    model = cross.CrossEncoder(str(model_folder), num_labels=1, device="cpu")
    arguments = cross.CrossEncoderTrainingArguments(
        str(tmp_path / "st"), max_steps=1, per_device_train_batch_size=8, report_to="none", save_strategy="no"
    )
    trainer = cross.CrossEncoderTrainer(model, arguments, train_dataset=rows, loss=losses.LambdaLoss(model))
    assert trainer.train().training_loss > 0


@pytest.mark.parametrize("library", ["pylate", "sentence_transformers"])
def test_pylates_tables_are_joined(library: str, ragged: Path, tmp_path: Path) -> None:
    """By PyLate's KDProcessing, and by sentence-transformers' resolve_ids, which reads the same tables."""
    out = exported(ragged, "pylate", "--group-size", "3")
    rows, queries, documents = (
        loaded(out / f"{name}.jsonl", tmp_path / "cache") for name in ("train", "queries", "documents")
    )
    plain = rows.with_format(None)
    utils = pytest.importorskip("pylate.utils" if library == "pylate" else "sentence_transformers.util")
    if library == "pylate":
        rows.set_transform(utils.KDProcessing(queries, documents).transform)
    else:
        rows.set_transform(utils.resolve_ids({"query_id": queries, "document_ids": documents}, output_format="lists"))
    collection = read_collection(ragged, ["train"])
    assert len(rows) == 7
    for row, ids in zip(rows, plain, strict=True):
        assert row["query"] == collection.queries[ids["query_id"]]
        assert row["documents"] == [collection.corpus[passage] for passage in ids["document_ids"]]
        assert row["scores"] == ids["scores"]


def test_tevatrons_reader_takes_the_rows(ragged: Path, tmp_path: Path) -> None:
    """Its preprocessor of this format, the only part that a released version has, turns a row into tokens."""
    preprocessor = pytest.importorskip("tevatron.datasets.preprocessor")
    rows = loaded(exported(ragged, "tevatron") / "train.jsonl", tmp_path / "cache")

    class Words:
        def encode(self, text: str, **_: Any) -> list[str]:
            return text.split()

    tokens = rows.map(preprocessor.TrainPreProcessor(Words()), remove_columns=rows.column_names)
    collection = read_collection(ragged, ["train"])
    for row, read in zip(rows, tokens, strict=True):
        assert read["query"] == collection.queries[row["query_id"]].split()
        for side in ("positive", "negative"):
            ids = [passage["docid"] for passage in row[f"{side}_passages"]]
            assert read[f"{side}s"] == [collection.corpus[passage].split() for passage in ids]
