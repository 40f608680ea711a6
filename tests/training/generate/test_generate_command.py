"""The command, in processes of its own: killed, stopped, doubled, without room, with a secret, with bad input."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.endpoint import MODEL, Endpoint, Reply, answer, says, serving
from training.data import read_collection
from training.generate.__main__ import main

Make = Callable[..., Any]
ROOT = Path(__file__).parents[3]


def options(queries: Path, out: Path, url: str, *more: str) -> list[str]:
    return ["--queries", str(queries), "--out", str(out), "--base-url", url, "--model", MODEL, *more]


@contextmanager
def process(arguments: list[str], **how: Any) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, which is gone at the end of the block whatever happens."""
    command = [sys.executable, "-m", "training.generate", *arguments]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def wait_for_lines(path: Path, count: int) -> None:
    until = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < until, f"{path} does not grow"
        time.sleep(0.01)


def one_line(text: str) -> str:
    """The last line of a command that showed its progress before it; the complaint must be there alone."""
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip() and "item/s" not in line]
    assert len(lines) == 1, text
    return lines[0]


def queries_of(endpoint: Endpoint) -> Counter[str]:
    asked = [body["messages"][-1]["content"].splitlines()[0] for body in endpoint.requests if body["max_tokens"] > 16]
    return Counter(question.removeprefix("Query: what is thing ") for question in asked)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_resumes_where_it_stopped(
    number: signal.Signals, make_queries: Make, records: Make, manifest: Make, tmp_path: Path
) -> None:
    queries, out = make_queries(120), tmp_path / "out"
    endpoint = Endpoint(lambda _, body: answer(body, delay=0.05))
    with serving(endpoint) as url:
        with process(options(queries, out, url, "--concurrency", "6")) as running:
            wait_for_lines(out / "contexts.jsonl", 20)
            running.send_signal(number)
            _, errors = running.communicate(timeout=30)
        assert running.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
        if number != signal.SIGKILL:
            assert "Traceback" not in errors
            assert manifest(out)["status"] == "stopped"
        else:
            assert manifest(out)["status"] == "running"
        finished = {record["query_id"].removeprefix("q") for record in records(out)}
        assert 20 <= len(finished) < 120
        endpoint.requests.clear()
        assert main(options(queries, out, url, "--concurrency", "6")) == 0
    assert queries_of(endpoint) == Counter({str(each): 1 for each in range(120) if str(each) not in finished})
    ids = [record["query_id"] for record in records(out)]
    assert len(ids) == len(set(ids)) == 120
    assert manifest(out)["status"] == "complete"
    assert manifest(out)["tokens"] == {"in": 12_000, "out": 1_200}
    assert len(read_collection(out, ["train"]).corpus) == 480


def test_an_impatient_second_signal_changes_nothing(make_queries: Make, manifest: Make, tmp_path: Path) -> None:
    queries, out = make_queries(120), tmp_path / "out"
    endpoint = Endpoint(lambda _, body: answer(body, delay=0.05))
    with serving(endpoint) as url, process(options(queries, out, url, "--concurrency", "6")) as running:
        wait_for_lines(out / "contexts.jsonl", 10)
        for _ in range(2):
            running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert one_line(errors) == f"stopped; the same command goes on from here: {out}"
    assert manifest(out)["status"] == "stopped"


def test_a_second_process_on_the_same_folder_is_refused_with_one_line(
    make_queries: Make, records: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries, out = make_queries(60), tmp_path / "out"
    endpoint = Endpoint(lambda _, body: answer(body, delay=0.05))
    with serving(endpoint) as url, process(options(queries, out, url, "--concurrency", "2")) as running:
        wait_for_lines(out / "contexts.jsonl", 2)
        assert main(options(queries, out, url)) == 1
        assert one_line(capsys.readouterr().err) == f"error: {out}: another process is writing there"
        assert running.wait(60) == 0
    assert queries_of(endpoint) == Counter({str(each): 1 for each in range(60)})
    assert len(records(out)) == 60


def limited() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))


def test_a_file_that_may_not_grow_ends_in_one_line_and_loses_nothing(
    make_queries: Make, records: Make, tmp_path: Path
) -> None:
    queries, out = make_queries(60), tmp_path / "out"
    endpoint = Endpoint(lambda _, body: answer(body))
    with serving(endpoint) as url:
        with process(options(queries, out, url, "--concurrency", "3"), preexec_fn=limited) as running:
            _, errors = running.communicate(timeout=60)
        check_no_room(errors, running.returncode, out / "contexts.jsonl", "File too large")
        check_resumed(options(queries, out, url), out, records, endpoint, 60)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("file systems may not be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(("count", "file"), [(150, ""), (400, "contexts.jsonl")])
def test_a_full_disk_ends_in_one_line_and_loses_nothing(
    count: int, file: str, small_disk: Path, make_queries: Make, records: Make
) -> None:
    """The fewer queries fit, but not the collection made of them."""
    queries, out = make_queries(count), small_disk / "out"
    endpoint = Endpoint(lambda _, body: answer(body))
    with serving(endpoint) as url:
        with process(options(queries, out, url, "--concurrency", "3")) as running:
            _, errors = running.communicate(timeout=60)
        check_no_room(errors, running.returncode, out / file, "No space left on device")
        subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
        check_resumed(options(queries, out, url), out, records, endpoint, count)


def check_no_room(errors: str, status: int, path: Path, reason: str) -> None:
    assert status == 1
    assert one_line(errors) == (
        f"error: {path}: cannot be written: {reason}; what is finished is kept: make room and run "
        "the same command again"
    )


def check_resumed(arguments: list[str], out: Path, records: Make, endpoint: Endpoint, count: int) -> None:
    finished = {record["query_id"].removeprefix("q") for record in records(out)}
    assert len(finished) > 10
    endpoint.requests.clear()
    assert main(arguments) == 0
    assert queries_of(endpoint) == Counter({str(each): 1 for each in range(count) if str(each) not in finished})
    ids = [record["query_id"] for record in records(out)]
    assert len(ids) == len(set(ids)) == count


SECRET = "sk-live/4f6Zq0aTn3vX8yB1"


@pytest.mark.parametrize("wrong", [False, True])
def test_a_key_reaches_no_file_and_no_message(
    wrong: bool,
    make_queries: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not even if the endpoint, which was sent it, says it again wherever it can."""
    escaped = SECRET.replace("/", "\\/").replace("4", "\\u0034")
    echoes = [
        Reply(json.dumps({"error": f"busy, {SECRET}"}).encode(), 429, {"retry-after": SECRET}),
        Reply(SECRET.encode(), 500),
        says(f"no JSON but {SECRET}"),
        says(json.dumps(dict.fromkeys(["grade_3", "grade_2", "grade_1", "grade_0"], f"text {SECRET}"))),
        Reply(says("TEXT").body.replace(b"TEXT", escaped.encode())),
        says("", refusal=f"not for {SECRET}"),
        Reply(f'{{"error": "{SECRET}"}}'.encode(), 400),
        Reply(SECRET.encode(), 307, {"location": f"http://{SECRET}/"}),
    ]
    monkeypatch.setenv("A_KEY", SECRET + "x" if wrong else SECRET)
    caplog.set_level(logging.DEBUG)
    endpoint = Endpoint(lambda number, body: echoes[number % 8] if number % 2 else answer(body), key=SECRET)
    arguments = ["--api-key-env", "A_KEY", "--record", str(tmp_path / "record.jsonl")]
    with serving(endpoint) as url:
        status = main([*options(make_queries(40), tmp_path / "out", url, *arguments), "--answers", "1"])
    assert status == (1 if wrong else 0)
    shown = capsys.readouterr()
    told = [shown.out, shown.err, caplog.text]
    told += [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert wrong or any("[key]" in text for text in told)  # it was there to be said
    assert not [text for text in told if SECRET in text or escaped in text or SECRET[8:] in text]


def test_the_key_is_what_the_endpoint_is_sent(
    make_queries: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serving(Endpoint(lambda _, body: answer(body), key=SECRET)) as url:
        assert main(options(make_queries(2), tmp_path / "out", url)) == 0


def test_a_placeholder_for_a_key_may_be_a_word_of_a_passage(
    make_queries: Make, records: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "text")
    with serving(Endpoint(lambda _, body: answer(body))) as url:
        assert main(options(make_queries(1), tmp_path / "out", url)) == 0
    assert records(tmp_path / "out")[0]["passages"][0]["text"].startswith("A text for grade_3")


BAD_QUERIES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "queries.jsonl: the file is empty"),
    "empty query": (
        b'{"_id": "a", "text": "x"}\n{"_id": "b", "text": " "}\n',
        "queries.jsonl:2: 'b' has an empty text",
    ),
    "id twice": (
        b'{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n',
        "queries.jsonl:2: duplicate id 'a', first on",
    ),
    "text twice": (
        b'{"_id": "a", "text": "x"}\n{"_id": "b", "text": "y"}\n{"_id": "c", "text": "x"}\n',
        "queries.jsonl:3: duplicate text 'x', first on line 1",
    ),
    "not UTF-8": (b'{"_id": "a", "text": "x"}\n{"_id": "b", "text": "\xff"}\n', "queries.jsonl:2: not UTF-8"),
    "not JSON": (b"what is a query\n", "queries.jsonl:1: not JSON"),
    "no text": (b'{"_id": "a"}\n', 'queries.jsonl:1: "text"'),
    "id with a tab": (b'{"_id": "a\\tb", "text": "x"}\n', "queries.jsonl:1: the id 'a\\tb' holds a tab"),
    "id with a line break": (b'{"_id": "a\\nb", "text": "x"}\n', "queries.jsonl:1: the id 'a\\nb' holds a tab, a line"),
    "half a character": (b'{"_id": "a", "text": "x \\ud83d"}\n', "queries.jsonl:1: holds half of a surrogate pair"),
}


@pytest.mark.parametrize("name", BAD_QUERIES)
def test_bad_queries_are_named_before_any_work(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, problem = BAD_QUERIES[name]
    (tmp_path / "queries.jsonl").write_bytes(content)
    endpoint = Endpoint(lambda _, body: answer(body))
    with serving(endpoint) as url:
        assert main(options(tmp_path / "queries.jsonl", tmp_path / "out", url)) == 1
    assert problem in one_line(capsys.readouterr().err)
    assert endpoint.requests == []
    assert list(tmp_path.iterdir()) == [tmp_path / "queries.jsonl"]


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        (["--queries", "/no/such/file"], "/no/such/file: cannot be read"),
        (["--model", "gpt-9"], "does not know the model 'gpt-9'; it has mock"),
        (["--base-url", "http://127.0.0.1:9/v1"], "cannot be reached"),
        (["--base-url", "localhost:8000"], "the base URL must look like"),
        (["--api-key-env", "NO_SUCH_KEY"], "the environment variable NO_SUCH_KEY is not set"),
        (["--api-key-env", "BROKEN_KEY"], "the environment variable BROKEN_KEY holds something that is no key"),
        (["--structured", "yaml"], "structured must be one of"),
        (["--prompts", "/no/such/folder"], "levels.json: cannot be read"),
        (["--examples", "99"], "has 3 examples, 99 are asked for"),
        (["--concurrency", "0"], "concurrency must be at least 1, got 0"),
        (["--timeout", "0"], "seconds must be at least"),
        (["--timeout", "nan"], "seconds must be at least"),
        (["--answers", "0"], "answers must be at least 1"),
        (["--retries", "-1"], "retries must be at least 0"),
        (["--max-tokens", "0"], "max_tokens must be at least 1"),
        (["--temperature", "-1"], "the temperature must be"),
        (["--top-p", "0"], "top-p above 0"),
        (["--shard", "4/3"], "the shard must be i/n with 1 <= i <= n, got 4/3"),
        (["--shard", "3/3"], "shard 3/3 has no items"),
        (["--at-most", "0"], "leaves none"),
        (["--backend", "recorded"], "needs --recording"),
        (["--backend", "recorded", "--recording", "/no/such/file"], "/no/such/file: cannot be read"),
        (["--backend", "local", "--model", "/no/such.gguf"], "/no/such.gguf: there is no such file"),
    ],
)
def test_bad_input_ends_with_one_line_and_status_one_before_any_work(
    extra: list[str],
    problem: str,
    make_queries: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("BROKEN_KEY", "ключ с пробелом")
    endpoint = Endpoint(lambda _, body: answer(body))
    with serving(endpoint) as url:
        assert main([*options(make_queries(2), tmp_path / "out", url), *extra]) == 1
    said = one_line(capsys.readouterr().err)
    assert said.startswith("error: ")
    assert problem in said
    assert "ключ" not in said
    assert endpoint.requests == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "extra", [["--shard", "1"], ["--shard", "a/b"], ["--backend", "ftp"], ["--mode", "x"], ["--seed", "x"], ["--nope"]]
)
def test_an_unusable_command_line_ends_with_one_line_and_status_two(
    extra: list[str], make_queries: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*options(make_queries(2), tmp_path / "out", "http://127.0.0.1:9/v1"), *extra])
    assert ended.value.code == 2
    assert "error: " in one_line(capsys.readouterr().err)


def test_a_model_is_needed(make_queries: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--queries", str(make_queries(2)), "--out", str(tmp_path / "out")]) == 1
    assert one_line(capsys.readouterr().err) == "error: --backend http needs --model"


@pytest.mark.parametrize(("backend", "package"), [("http", "aiohttp"), ("local", "xgrammar")])
def test_a_package_that_is_missing_is_named(
    backend: str,
    package: str,
    make_queries: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"training.generate.backends.{backend}", raising=False)
    arguments = ["--queries", str(make_queries(2)), "--out", str(tmp_path / "out"), "--backend", backend]
    assert main([*arguments, "--model", "some/model"]) == 1
    said = one_line(capsys.readouterr().err)
    assert said.startswith(f"error: --backend {backend} needs a package that is not installed: ")
    assert package in said
    assert said.endswith("pip install 'wassrank[generate]'")


def test_another_runs_folder_is_refused_before_any_work(
    make_queries: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = Endpoint(lambda _, body: answer(body))
    out = tmp_path / "out"
    with serving(endpoint) as url:
        assert main(options(make_queries(3), out, url)) == 0
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        capsys.readouterr()
        endpoint.requests.clear()
        for extra, name in ((["--seed", "1"], "seed"), (["--mode", "calls"], "task"), (["--top-p", "0.5"], "backend")):
            assert main([*options(make_queries(3), out, url), *extra]) == 1
            assert f"holds another run, with {name} " in one_line(capsys.readouterr().err)
        assert main(options(make_queries(4), out, url)) == 1
        assert "holds another run, with source " in one_line(capsys.readouterr().err)
    assert endpoint.requests == []
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_the_command_says_what_was_done_and_what_is_left(
    make_queries: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def behaviour(_: int, body: dict[str, Any]) -> Reply:
        text = body["messages"][-1]["content"]
        if "thing 1\n" in text:
            return Reply(b"", 503)
        return says("no") if "thing 2\n" in text else answer(body)

    with serving(Endpoint(behaviour)) as url:
        assert main([*options(make_queries(4), tmp_path / "out", url), "--retries", "1"]) == 1
    shown = capsys.readouterr()
    assert shown.out == f"2 of 4 finished, 1 set aside, 1 left; 50 tokens written: {tmp_path / 'out'}\n"
    assert one_line(shown.err) == "error: 1 got no answer; run the same command again for them"
    assert "set_aside=1" in shown.err


def test_a_run_starts_without_torch() -> None:
    """A command that only asks a server should not wait for what it does not need."""
    code = "import sys, training.generate.__main__, training.generate.backends.http; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, check=False).returncode == 0
