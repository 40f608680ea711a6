"""A real server on loopback that misbehaves on purpose: no record is lost or there twice, and the end is clear."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import pytest

from benchmarks.endpoint import MODEL, Endpoint, Reply, answer, says, serving
from training.errors import InputError
from training.generate import Limits, generate, run
from training.generate.backends import http
from training.generate.backends.http import Http, retry_after

Make = Callable[..., Any]
QUICK = Limits(concurrency=8, seconds=0.3, retries=3)


def query_of(body: dict[str, Any]) -> str:
    text: str = body["messages"][-1]["content"]
    return text.splitlines()[0].removeprefix("Query: ")


class FirstBadThenGood:
    """The check of the start is answered; each query's first request meets `bad`, the next a good answer."""

    def __init__(self, bad: Callable[[dict[str, Any]], Reply]) -> None:
        self._bad = bad
        self.seen: Counter[str] = Counter()

    def __call__(self, number: int, body: dict[str, Any]) -> Reply:
        if body["max_tokens"] < 100:
            return says("{}")
        self.seen[query_of(body)] += 1
        return answer(body) if self.seen[query_of(body)] > 1 else self._bad(body)


MISBEHAVIOUR: dict[str, tuple[Callable[[dict[str, Any]], Reply], str]] = {
    "busy": (lambda _: Reply(b"slow down", 429, {"retry-after": "0"}), "HTTP 429"),
    "broken": (lambda _: Reply(b"<h1>oops</h1>", 500), "HTTP 500"),
    "bad gateway": (lambda _: Reply(b"", 502), "HTTP 502"),
    "garbage": (lambda _: Reply(b"\x00\xff\xfegarbage"), "an answer that is no chat completion"),
    "another JSON": (lambda _: Reply(b'{"choices": []}'), "an answer that is no chat completion"),
    "half a JSON": (lambda body: Reply(answer(body).body[:-40]), "an answer that is no chat completion"),
    "half a response": (lambda body: replace(answer(body), sent=150), "ClientPayloadError"),
    "half a header": (lambda body: replace(answer(body), sent=20), "ServerDisconnectedError"),
    "nothing": (lambda body: replace(answer(body), sent=0), "ServerDisconnectedError"),
    "too much": (lambda body: Reply(answer(body).body + b" " * 20_000), "an answer of more than 10000 bytes"),
    "too late": (lambda body: answer(body, delay=5.0), "no answer within 0.3 s"),
    "no content": (lambda _: says(""), "malformed"),
    "null content": (lambda _: Reply(says("").body.replace(b'"content": ""', b'"content": null')), "malformed"),
    "prose": (lambda _: says("Here are your passages."), "malformed"),
    "cut off": (lambda body: says(json.dumps({"grade_3": "x"})[:-3], "length"), "malformed"),
    "refusal": (lambda _: says("", refusal="I won't."), "refused"),
    "filtered": (lambda _: says("", "content_filter"), "refused"),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_after_a_bad_answer_every_query_is_finished_once(
    name: str, make_queries: Make, records: Make, manifest: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LARGEST_ANSWER", 10_000)
    bad, kind = MISBEHAVIOUR[name]
    behaviour = FirstBadThenGood(bad)
    with serving(Endpoint(behaviour)) as url:
        summary = generate(make_queries(12), tmp_path / "out", Http(url, MODEL), limits=QUICK, progress=False)
    assert (summary.finished, summary.set_aside, summary.left) == (12, 0, 0)
    assert sorted(record["query_id"] for record in records(tmp_path / "out")) == sorted(f"q{i}" for i in range(12))
    assert set(behaviour.seen.values()) == {2}
    assert manifest(tmp_path / "out")["failures"] == {kind: 12}


def test_a_server_that_gets_everything_wrong_in_turn_loses_nothing(
    make_queries: Make, records: Make, tmp_path: Path
) -> None:
    bad = [bad for name, (bad, _) in MISBEHAVIOUR.items() if name != "too late"]

    def behaviour(number: int, body: dict[str, Any]) -> Reply:
        return bad[number // 2 % len(bad)](body) if number % 2 else answer(body)

    endpoint = Endpoint(behaviour)
    queries = make_queries(100)
    with serving(endpoint) as url:
        summary = generate(queries, tmp_path / "out", Http(url, MODEL), limits=QUICK, progress=False)
        if summary.left:
            summary = generate(queries, tmp_path / "out", Http(url, MODEL), limits=QUICK, progress=False)
    ids = [
        record["query_id"]
        for name in ("contexts", "set_aside")
        for record in records(tmp_path / "out", f"{name}.jsonl")
    ]
    assert len(ids) == len(set(ids)) == summary.finished + summary.set_aside
    assert summary.left == 100 - len(ids)
    assert summary.finished > 80


def test_what_an_endpoint_asks_for_is_waited(
    make_queries: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[tuple[int, float]] = []

    def pause(retry: int, after: float) -> float:
        waits.append((retry, after))
        return 0.0

    monkeypatch.setattr(run, "pause", pause)
    behaviour = FirstBadThenGood(lambda _: Reply(b"", 429, {"retry-after": "17"}))
    with serving(Endpoint(behaviour)) as url:
        generate(make_queries(2), tmp_path / "out", Http(url, MODEL), progress=False)
    assert waits == [(0, 17.0), (0, 17.0)]


def test_a_wait_may_be_seconds_or_a_date_or_nonsense() -> None:
    assert retry_after("12") == 12
    assert retry_after(formatdate(time() + 100, usegmt=True)) == pytest.approx(100, abs=5)
    assert retry_after(formatdate(time() - 100, usegmt=True)) == 0
    assert [retry_after(value) for value in (None, "", "soon", "-3")] == [0, 0, 0, 0]


def test_a_request_is_as_an_openai_endpoint_expects(make_queries: Make, tmp_path: Path) -> None:
    endpoint = Endpoint(lambda _, body: answer(body))
    with serving(endpoint) as url:
        generate(make_queries(1), tmp_path / "out", Http(url, MODEL), limits=Limits(max_tokens=99), progress=False)
    check, asked = endpoint.requests
    assert check["max_tokens"] == 16
    assert (asked["model"], asked["max_tokens"], asked["temperature"], asked["top_p"]) == (MODEL, 99, 0.8, 0.95)
    assert [message["role"] for message in asked["messages"]] == ["system", "user", "assistant", "user"]
    structured = asked["response_format"]["json_schema"]
    assert structured["strict"] is True
    assert structured["schema"]["required"] == ["grade_3", "grade_2", "grade_1", "grade_0"]
    assert 0 <= asked["seed"] < 2**31


@pytest.mark.parametrize(
    ("behaviour", "key", "model", "problem"),
    [
        (None, None, "gpt-9", "does not know the model 'gpt-9'; it has mock"),
        (None, "sk-the-right-key-0001", MODEL, "demands a key: put it into the environment variable OPENAI_API_KEY"),
        (
            lambda *_: Reply(b'{"detail": "response_format?"}', 422),
            None,
            MODEL,
            'HTTP 422: {"detail": "response_format?"}',
        ),
        (
            lambda *_: Reply(b"json_schema?", 500),
            None,
            MODEL,
            "refuses the kind of request we make: HTTP 500: json_schema?",
        ),
        (lambda *_: Reply(b"no such thing", 404), None, MODEL, "HTTP 404 for the model 'mock': no such thing"),
    ],
)
def test_an_endpoint_that_cannot_serve_us_is_found_out_before_any_work(
    behaviour: Any,
    key: str | None,
    model: str,
    problem: str,
    make_queries: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    endpoint = Endpoint(behaviour or (lambda _, body: answer(body)), key)
    with serving(endpoint) as url, pytest.raises(InputError) as caught:
        generate(make_queries(2), tmp_path / "out", Http(url, model), progress=False)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(body["max_tokens"] == 16 for body in endpoint.requests)
    assert not (tmp_path / "out").exists()


def test_an_endpoint_that_is_not_there_is_named(make_queries: Make, tmp_path: Path) -> None:
    with serving(Endpoint(lambda _, body: answer(body))) as url:
        pass
    with pytest.raises(InputError, match=f"{url}: cannot be reached: ClientConnectorError") as caught:
        generate(make_queries(2), tmp_path / "out", Http(url, MODEL), progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_key_that_is_withdrawn_ends_the_run_at_once(
    make_queries: Make, records: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-some-key-of-some-length")
    endpoint = Endpoint(lambda number, body: answer(body) if number < 10 else Reply(b"gone", 403))
    limits = Limits(concurrency=2)
    with serving(endpoint) as url, pytest.raises(InputError, match=r"refuses the key in OPENAI_API_KEY \(HTTP 403\)"):
        generate(make_queries(50), tmp_path / "out", Http(url, MODEL), limits=limits, progress=False)
    assert len(records(tmp_path / "out")) == 9
    assert len(endpoint.requests) <= 12


def test_an_endpoint_keeps_its_connections_and_never_has_more_than_agreed(make_queries: Make, tmp_path: Path) -> None:
    endpoint = Endpoint(lambda _, body: answer(body, delay=0.005))
    with serving(endpoint) as url:
        generate(make_queries(60), tmp_path / "out", Http(url, MODEL), limits=Limits(concurrency=9), progress=False)
    assert endpoint.most_at_once == 9
    assert endpoint.connections <= 10


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://host/v1", "http://", "http://user:secret@host/v1", "http://host/v1?key=secret"]
)
def test_an_address_that_cannot_be_used_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="the base URL") as caught:
        Http(url, MODEL)
    assert "secret" not in str(caught.value)
