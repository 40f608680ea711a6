"""A run: every query once, whatever the model does, and taken up again where it stopped."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.data import read_collection
from training.errors import InputError
from training.generate import Limits, generate
from training.generate.backends import BusyError, Completion, RejectedError
from training.generate.reading import read_contexts
from training.generate.run import pause

Make = Callable[..., Any]


def query_of(messages: list[dict[str, str]]) -> str:
    return messages[-1]["content"].splitlines()[0].removeprefix("Query: ")


@pytest.mark.parametrize("mode", ["conversation", "calls"])
def test_every_query_gets_a_passage_of_every_level(
    mode: str, make_queries: Make, scripted: Make, tmp_path: Path
) -> None:
    summary = generate(make_queries(10), tmp_path / "out", scripted(), mode=mode, progress=False)
    assert (summary.items, summary.finished, summary.set_aside, summary.left) == (10, 10, 0, 0)
    contexts = list(read_contexts(tmp_path / "out"))
    assert {context.query_id for context in contexts} == {f"q{number}" for number in range(10)}
    for context in contexts:
        assert [passage.grade for passage in context.passages] == [3, 2, 1, 0]
    collection = read_collection(tmp_path / "out", ["train"])
    assert collection.queries["q7"] == "what is thing 7"
    assert collection.qrels["train"]["q7"] == {
        f"q7_l{grade}_{place}": grade for place, grade in enumerate((3, 2, 1, 0))
    }


def test_one_call_a_level_shows_the_earlier_answers(make_queries: Make, scripted: Make, tmp_path: Path) -> None:
    backend = scripted(lambda messages, schema, seed: json.dumps({"passage": f"passage {seed}"}))
    generate(make_queries(1), tmp_path / "out", backend, mode="calls", examples=0, progress=False)
    (context,) = read_contexts(tmp_path / "out")
    assert [len(messages) for messages in backend.asked] == [2, 4, 6, 8]
    said = [json.loads(message["content"])["passage"] for message in backend.asked[-1][2::2]]
    assert said == [passage.text for passage in context.passages[:3]]


def test_the_same_seed_gives_the_same_prompts_in_any_order(
    make_queries: Make, scripted: Make, records: Make, tmp_path: Path
) -> None:
    def prompts(name: str, **options: Any) -> dict[str, tuple[str, Any]]:
        generate(make_queries(12), tmp_path / name, scripted(), progress=False, **options)
        return {record["query_id"]: (record["prompt"], record["passages"]) for record in records(tmp_path / name)}

    alone = prompts("alone", seed=5, limits=Limits(concurrency=1))
    assert prompts("together", seed=5, limits=Limits(concurrency=12)) == alone
    assert all(alone[query][0] != prompt for query, (prompt, _) in prompts("other", seed=6).items())


def test_the_manifest_says_what_was_run(make_queries: Make, scripted: Make, manifest: Make, tmp_path: Path) -> None:
    generate(make_queries(3), tmp_path / "out", scripted(), seed=4, limits=Limits(max_tokens=77), progress=False)
    found = manifest(tmp_path / "out")
    assert found["status"] == "complete"
    assert found["run"]["backend"] == {"kind": "scripted"}
    assert (found["run"]["seed"], found["run"]["max_tokens"], found["run"]["shard"]) == (4, 77, "1/1")
    assert (found["items"], found["finished"], found["set_aside"], found["left"]) == (3, 3, 0, 0)
    assert found["tokens"] == {"in": 60, "out": 30}
    assert found["failures"] == {}


def test_an_unusable_answer_is_asked_for_again_with_another_seed(
    make_queries: Make, scripted: Make, records: Make, manifest: Make, tmp_path: Path
) -> None:
    seeds: dict[str, list[int]] = {}

    def script(messages: Any, schema: Any, seed: int) -> str:
        tried = seeds.setdefault(query_of(messages), [])
        tried.append(seed)
        return json.dumps(dict.fromkeys(schema["properties"], "text")) if len(tried) == 2 else "Here you are:"

    generate(make_queries(5), tmp_path / "out", scripted(script), progress=False)
    assert all(len(set(tried)) == 2 for tried in seeds.values())
    assert [record["attempts"] for record in records(tmp_path / "out")] == [2] * 5
    assert [record["tokens"] for record in records(tmp_path / "out")] == [{"in": 40, "out": 20}] * 5
    assert manifest(tmp_path / "out")["failures"] == {"malformed": 5}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("no JSON", "malformed: not JSON"),
        ("I'm sorry, but I can't write that.", "refused: the model declined"),
        (Completion("{", ended="length"), "malformed: cut off at 2048 tokens"),
        (Completion("no", ended="refused"), "refused: the endpoint or the model declined"),
    ],
)
def test_what_is_never_usable_is_set_aside_with_its_raw_text(
    answer: str | Completion, reason: str, make_queries: Make, scripted: Make, records: Make, tmp_path: Path
) -> None:
    def script(messages: Any, schema: Any, seed: int) -> Any:
        good = json.dumps(dict.fromkeys(schema["properties"], "text"))
        return answer if query_of(messages) == "what is thing 3" else good

    summary = generate(make_queries(6), tmp_path / "out", scripted(script), progress=False)
    assert (summary.finished, summary.set_aside, summary.left) == (5, 1, 0)
    (aside,) = records(tmp_path / "out", "set_aside.jsonl")
    assert (aside["query_id"], aside["query"], aside["attempts"]) == ("q3", "what is thing 3", 3)
    assert aside["raw"] == (answer if isinstance(answer, str) else answer.text)
    assert f"{aside['reason']}: {aside['detail']}".startswith(reason)
    assert "q3" not in read_collection(tmp_path / "out", ["train"]).queries


def test_a_set_aside_query_gets_another_chance_when_its_file_is_deleted(
    make_queries: Make, scripted: Make, tmp_path: Path
) -> None:
    queries = make_queries(3)
    assert generate(queries, tmp_path / "out", scripted(lambda *_: "no"), progress=False).set_aside == 3
    assert generate(queries, tmp_path / "out", scripted(), progress=False).set_aside == 3
    (tmp_path / "out" / "set_aside.jsonl").unlink()
    assert generate(queries, tmp_path / "out", scripted(), progress=False).finished == 3


def test_a_rejected_request_is_not_repeated(make_queries: Make, scripted: Make, records: Make, tmp_path: Path) -> None:
    def script(messages: Any, schema: Any, seed: int) -> str:
        if query_of(messages) == "what is thing 1":
            raise RejectedError("HTTP 400", "too long")
        return json.dumps(dict.fromkeys(schema["properties"], "text"))

    backend = scripted(script)
    generate(make_queries(3), tmp_path / "out", backend, progress=False)
    (aside,) = records(tmp_path / "out", "set_aside.jsonl")
    assert [aside[key] for key in ("reason", "detail", "raw", "attempts")] == ["rejected", "HTTP 400", "too long", 1]


def test_a_query_without_answer_is_left_and_asked_again(
    make_queries: Make, scripted: Make, manifest: Make, tmp_path: Path
) -> None:
    def script(messages: Any, schema: Any, seed: int) -> str:
        if query_of(messages) == "what is thing 1":
            raise BusyError("HTTP 503")
        return json.dumps(dict.fromkeys(schema["properties"], "text"))

    queries = make_queries(3)
    summary = generate(queries, tmp_path / "out", scripted(script), limits=Limits(retries=2), progress=False)
    assert (summary.finished, summary.set_aside, summary.left) == (2, 0, 1)
    assert summary.failures == {"HTTP 503": 3}
    assert manifest(tmp_path / "out")["status"] == "incomplete"
    again = scripted()
    assert generate(queries, tmp_path / "out", again, progress=False).finished == 3
    assert [query_of(messages) for messages in again.asked] == ["what is thing 1"]
    assert manifest(tmp_path / "out")["status"] == "complete"
    assert len(read_collection(tmp_path / "out", ["train"]).queries) == 3


@pytest.mark.parametrize("error", [BusyError("HTTP 503"), RejectedError("HTTP 400", "no")])
def test_a_backend_that_is_gone_ends_the_run_and_keeps_what_is_finished(
    error: Exception, make_queries: Make, scripted: Make, records: Make, manifest: Make, tmp_path: Path
) -> None:
    calls = Counter[str]()

    def script(messages: Any, schema: Any, seed: int) -> str:
        calls["all"] += 1
        if calls["all"] > 30:
            raise error
        return json.dumps(dict.fromkeys(schema["properties"], "text"))

    with pytest.raises(InputError, match=f"gives no answers any more: {error}"):
        generate(make_queries(200), tmp_path / "out", scripted(script), limits=Limits(4, retries=0), progress=False)
    assert len(records(tmp_path / "out")) == 30
    assert calls["all"] <= 30 + 20 + 4
    assert manifest(tmp_path / "out")["status"] == "stopped"


def test_no_more_requests_are_under_way_than_allowed(make_queries: Make, scripted: Make, tmp_path: Path) -> None:
    import asyncio

    under_way, most = 0, 0
    backend = scripted()
    good = backend.complete

    async def complete(*arguments: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1
        return await good(*arguments)

    backend.complete = complete
    generate(make_queries(40), tmp_path / "out", backend, limits=Limits(concurrency=7), progress=False)
    assert most == 7


def test_waits_are_as_long_as_asked_for_and_grow_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.generate.run.FIRST_PAUSE", 1.0)
    monkeypatch.setattr("training.generate.run.LONGEST_PAUSE", 60.0)
    for _ in range(50):
        assert 7 <= pause(0, 7.0) <= 8
        assert 0.5 <= pause(0, 0.0) <= 1
        assert 4 <= pause(3, 0.0) <= 8
        assert 30 <= pause(50, 0.0) <= 60
    assert len({pause(3, 0.0) for _ in range(10)}) == 10


def test_who_asks_for_an_hour_is_not_waited_for(make_queries: Make, scripted: Make, tmp_path: Path) -> None:
    def script(*_: Any) -> str:
        raise BusyError("HTTP 429", after=3600.0)

    backend = scripted(script)
    summary = generate(make_queries(1), tmp_path / "out", backend, progress=False)
    assert summary.left == 1
    assert len(backend.asked) == 1


def test_shards_share_the_queries_and_join_to_one_collection(
    make_queries: Make, scripted: Make, tmp_path: Path
) -> None:
    from training.generate.join import main

    folders = [str(tmp_path / f"shard{number}") for number in (1, 2, 3)]
    for number, folder in enumerate(folders, start=1):
        generate(make_queries(10), Path(folder), scripted(), shard=(number, 3), progress=False)
    found = [{context.query_id for context in read_contexts(Path(folder))} for folder in folders]
    assert [len(ids) for ids in found] == [4, 3, 3]
    assert set().union(*found) == {f"q{number}" for number in range(10)}
    assert main([*folders, "--out", str(tmp_path / "joined")]) == 0
    assert len(read_collection(tmp_path / "joined", ["train"]).corpus) == 40
    assert main([*folders, folders[0], "--out", str(tmp_path / "twice")]) == 1
    assert not (tmp_path / "twice").exists()


def test_some_may_be_drawn_from_all(make_queries: Make, scripted: Make, tmp_path: Path) -> None:
    def drawn(name: str, **options: Any) -> set[str]:
        generate(make_queries(50), tmp_path / name, scripted(), progress=False, **options)
        return {context.query_id for context in read_contexts(tmp_path / name)}

    some = drawn("some", at_most=10, seed=1)
    assert len(some) == 10
    assert drawn("other", at_most=10, seed=2) != some
    halves = [drawn(f"half{number}", at_most=10, seed=1, shard=(number, 2)) for number in (1, 2)]
    assert halves[0] | halves[1] == some
    assert not halves[0] & halves[1]


def test_a_run_may_be_called_from_a_thread(make_queries: Make, scripted: Make, tmp_path: Path) -> None:
    queries, ended = make_queries(3), []
    thread = threading.Thread(
        target=lambda: ended.append(generate(queries, tmp_path / "out", scripted(), progress=False))
    )
    thread.start()
    thread.join(30)
    assert ended[0].finished == 3


def test_a_bug_keeps_its_trace_and_what_is_finished(
    make_queries: Make, scripted: Make, records: Make, manifest: Make, tmp_path: Path
) -> None:
    count = Counter[str]()

    def script(messages: Any, schema: Any, seed: int) -> str:
        count["all"] += 1
        if count["all"] == 5:
            raise ZeroDivisionError
        return json.dumps(dict.fromkeys(schema["properties"], "text"))

    with pytest.raises(ZeroDivisionError):
        generate(make_queries(9), tmp_path / "out", scripted(script), limits=Limits(concurrency=1), progress=False)
    assert len(records(tmp_path / "out")) == 4
    assert manifest(tmp_path / "out")["status"] == "stopped"
    assert generate(make_queries(9), tmp_path / "out", scripted(), progress=False).finished == 9
