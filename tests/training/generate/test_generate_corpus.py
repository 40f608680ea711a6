"""Queries written for a corpus that has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.endpoint import MODEL, Endpoint, answer, serving
from training.errors import InputError
from training.generate import Limits, generate
from training.generate.__main__ import main

Make = Callable[..., Any]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six passages, one of them empty and two with the same text."""
    path = tmp_path / "corpus.jsonl"
    texts = ["soap binds fat", "", "bees dance", "bees dance", "rust needs water", "yeast makes gas"]
    lines = [
        json.dumps({"_id": f"p{place}", "title": "On" if text else "", "text": text})
        for place, text in enumerate(texts)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def passage_of(messages: list[dict[str, str]]) -> str:
    return messages[-1]["content"].splitlines()[0].removeprefix("Passage: ")


def test_every_passage_that_has_a_text_gets_a_query(
    corpus: Path, scripted: Make, records: Make, manifest: Make, tmp_path: Path
) -> None:
    number = iter(range(10))
    backend = scripted(
        lambda messages, *_: json.dumps({"query": f"what of\n {passage_of(messages)} and {next(number)}"})
    )
    summary = generate(corpus, tmp_path / "out", backend, from_corpus=True, limits=Limits(1), progress=False)
    assert (summary.items, summary.finished) == (5, 5)
    assert {passage_of(messages) for messages in backend.asked} == {
        "On soap binds fat",
        "On bees dance",
        "On rust needs water",
        "On yeast makes gas",
    }
    written = records(tmp_path / "out", "queries.jsonl")
    assert written[0] == {"_id": "p0", "text": "what of On soap binds fat and 0"}
    assert [record["_id"] for record in written] == ["p0", "p2", "p3", "p4", "p5"]
    assert manifest(tmp_path / "out")["made"] == {"queries": 5, "repeated": 0}


def test_a_query_that_is_written_twice_is_kept_once(
    corpus: Path, scripted: Make, records: Make, manifest: Make, tmp_path: Path
) -> None:
    backend = scripted(lambda messages, *_: json.dumps({"query": f"about {passage_of(messages)}"}))
    generate(corpus, tmp_path / "out", backend, from_corpus=True, limits=Limits(1), progress=False)
    assert [record["_id"] for record in records(tmp_path / "out", "queries.jsonl")] == ["p0", "p2", "p4", "p5"]
    assert len(records(tmp_path / "out", "written.jsonl")) == 5
    assert manifest(tmp_path / "out")["made"] == {"queries": 4, "repeated": 1}


def test_written_queries_are_queries_to_write_passages_for(corpus: Path, records: Make, tmp_path: Path) -> None:
    with serving(Endpoint(lambda _, body: answer(body))) as url:
        reached = ["--base-url", url, "--model", MODEL]
        assert main(["--from-corpus", str(corpus), "--out", str(tmp_path / "asked"), *reached]) == 0
        queries = tmp_path / "asked" / "queries.jsonl"
        assert main(["--queries", str(queries), "--out", str(tmp_path / "out"), *reached]) == 0
    assert {record["query_id"] for record in records(tmp_path / "out")} <= {f"p{place}" for place in range(6)}
    assert len(records(tmp_path / "out")) == len(records(tmp_path / "asked", "queries.jsonl"))


def test_a_folder_of_contexts_takes_no_queries(
    corpus: Path, make_queries: Make, scripted: Make, tmp_path: Path
) -> None:
    generate(make_queries(2), tmp_path / "out", scripted(), progress=False)
    with pytest.raises(InputError, match="holds another run, with source"):
        generate(corpus, tmp_path / "out", scripted(), from_corpus=True, progress=False)


def test_a_corpus_of_empty_passages_is_refused(scripted: Make, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "p0", "text": ""}\n', encoding="utf-8")
    with pytest.raises(InputError, match="shard 1/1 has no items"):
        generate(tmp_path / "corpus.jsonl", tmp_path / "out", scripted(), from_corpus=True, progress=False)
