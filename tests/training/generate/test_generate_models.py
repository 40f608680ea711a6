"""Against a real model: llama.cpp's server on loopback, and the same weights in this process.

The model, SmolLM2 with 135 million parameters, cannot write passages of four levels; with a grammar it writes JSON of
the right shape. So these are tests of the machinery: that what a real server is sent it takes, what it answers is
kept or set aside with a reason, and that its tokens are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from training.data import read_collection
from training.generate import Limits, Summary, generate
from training.generate.__main__ import main
from training.generate.backends.http import Http
from training.generate.backends.local import Local

from . import llama_server

pytestmark = pytest.mark.full

Make = Callable[..., Any]
GRADES = [3, 2, 1, 0]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_server.serving(tmp_path_factory.mktemp("server")) as url:
        yield url


def check(summary: Summary, folder: Path, records: Make, count: int) -> None:
    finished, aside = records(folder), records(folder, "set_aside.jsonl")
    assert summary.left == 0
    assert len({record["query_id"] for record in [*finished, *aside]}) == len(finished) + len(aside) == count
    assert summary.tokens["in"] > 100 * count
    assert summary.tokens["out"] > 0
    for record in finished:
        assert [passage["grade"] for passage in record["passages"]] == GRADES
        assert all(passage["text"] for passage in record["passages"])
    assert all(record["raw"] and record["reason"] in ("malformed", "refused") for record in aside)
    if finished:
        assert len(read_collection(folder, ["train"]).queries) == len(finished)


@pytest.mark.parametrize("mode", ["conversation", "calls"])
def test_a_real_server_writes_every_level_under_a_grammar(
    mode: str, url: str, make_queries: Make, records: Make, tmp_path: Path
) -> None:
    backend = Http(url, llama_server.MODEL, structured="json_object")
    limits = Limits(concurrency=2, answers=3, max_tokens=400)
    summary = generate(make_queries(3), tmp_path / "out", backend, mode=mode, limits=limits, progress=False)
    check(summary, tmp_path / "out", records, 3)
    assert summary.finished > 0


def test_a_real_server_is_known_for_what_it_is_before_any_work(
    url: str, make_queries: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--queries", str(make_queries(1)), "--out", str(tmp_path / "out"), "--base-url", url]
    assert main([*arguments, "--model", "gpt-9"]) == 1
    assert f"does not know the model 'gpt-9'; it has {llama_server.MODEL}" in capsys.readouterr().err
    assert main([*arguments, "--model", llama_server.MODEL]) == 1  # it knows no json_schema, and says so by a 500
    error = capsys.readouterr().err
    assert "refuses the kind of request we make: HTTP 500: " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_real_server_writes_queries_for_a_corpus(url: str, records: Make, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"_id": "p", "text": "Soap binds fat and water."}) + "\n", encoding="utf-8")
    backend = Http(url, llama_server.MODEL, structured="json_object")
    summary = generate(
        corpus, tmp_path / "out", backend, from_corpus=True, limits=Limits(max_tokens=100), progress=False
    )
    assert summary.finished + summary.set_aside == 1
    if summary.finished:
        (query,) = records(tmp_path / "out", "queries.jsonl")
        assert query["_id"] == "p"
        assert query["text"]


def test_the_same_weights_write_every_level_in_this_process(make_queries: Make, records: Make, tmp_path: Path) -> None:
    backend = Local(str(llama_server.gguf()), device="cpu")
    limits = Limits(answers=3, max_tokens=150)
    summary = generate(
        make_queries(2), tmp_path / "out", backend, mode="calls", examples=0, limits=limits, progress=False
    )
    check(summary, tmp_path / "out", records, 2)
