"""The output folder: whole lines, one writer, one run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.data import read_collection
from training.errors import InputError
from training.generate import Limits, generate
from training.generate.store import Store

Make = Callable[..., Any]


def store(folder: Path, **run: Any) -> Store:
    return Store(folder, "contexts.jsonl", "query_id", {"seed": 0} | run)


def record(number: int) -> dict[str, Any]:
    return {"query_id": f"q{number}", "query": "ünï", "tokens": {"in": 1, "out": 2}}


def test_what_was_added_is_there_at_once_and_when_taken_up_again(tmp_path: Path) -> None:
    first = store(tmp_path / "out")
    assert list(first.open(items=5)) == []
    first.add(record(0))
    first.add_aside(record(1))
    lines = [(tmp_path / "out" / name).read_text(encoding="utf-8") for name in ("contexts.jsonl", "set_aside.jsonl")]
    assert [json.loads(line) for line in lines] == [record(0), record(1)]
    first.save("running")
    first.close()
    second = store(tmp_path / "out")
    assert list(second.open(items=5)) == ["q0", "q1"]
    assert (second.finished, second.set_aside, second.tokens) == (1, 1, {"in": 2, "out": 4})
    second.close()


@pytest.mark.parametrize("cut", [1, 5, -2])
def test_a_line_that_a_death_cut_short_is_dropped(tmp_path: Path, cut: int) -> None:
    first = store(tmp_path / "out")
    list(first.open(items=5))
    first.save("running")
    first.add(record(0))
    first.close()
    path = tmp_path / "out" / "contexts.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-1][:cut])
    second = store(tmp_path / "out")
    assert list(second.open(items=5)) == ["q0"]
    second.add(record(1))
    second.close()
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [record(0), record(1)]


@pytest.mark.parametrize("line", [b"no json\n", b"[]\n", b'{"other": 1}\n', b"\xff\n"])
def test_a_line_that_someone_else_wrote_is_named(tmp_path: Path, line: bytes) -> None:
    first = store(tmp_path / "out")
    list(first.open(items=5))
    first.save("running")
    first.add(record(0))
    first.close()
    path = tmp_path / "out" / "contexts.jsonl"
    path.write_bytes(path.read_bytes() + line)
    second = store(tmp_path / "out")
    with pytest.raises(InputError, match=f"{path}:2: "):
        list(second.open(items=5))
    second.close()
    assert path.read_bytes().endswith(line)


def test_a_second_writer_is_refused_and_the_first_undisturbed(tmp_path: Path) -> None:
    first = store(tmp_path / "out")
    list(first.open(items=5))
    first.save("running")
    with pytest.raises(InputError, match=f"{tmp_path / 'out'}: another process is writing there"):
        store(tmp_path / "out")
    first.add(record(0))
    first.close()
    store(tmp_path / "out").close()


def test_another_run_is_refused_and_told_apart(tmp_path: Path) -> None:
    first = store(tmp_path / "out", seed=1)
    list(first.open(items=5))
    first.save("running")
    first.close()
    before = sorted((path, path.read_bytes()) for path in (tmp_path / "out").iterdir())
    with pytest.raises(InputError, match="holds another run, with seed 1 in place of 2"):
        store(tmp_path / "out", seed=2)
    assert sorted((path, path.read_bytes()) for path in (tmp_path / "out").iterdir()) == before


@pytest.mark.parametrize("manifest", ['{"format": 99, "run": {}}', "{}", "no json", "[]"])
def test_a_manifest_of_something_else_is_refused(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(InputError, match=r"manifest\.json:"):
        store(tmp_path)
    assert (tmp_path / "manifest.json").read_text(encoding="utf-8") == manifest


def test_a_folder_of_other_things_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="is not empty and has no manifest"):
        store(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.txt"]


def test_a_run_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    unused = store(tmp_path / "out")
    list(unused.open(items=5))
    unused.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"{tmp_path / 'file' / 'out'}: cannot be written"):
        store(tmp_path / "file" / "out")


def test_records_of_other_queries_are_refused(make_queries: Make, scripted: Make, tmp_path: Path) -> None:
    generate(make_queries(2), tmp_path / "out", scripted(), progress=False)
    path = tmp_path / "out" / "contexts.jsonl"
    line = path.read_text(encoding="utf-8").splitlines()[0]
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"'q\d' twice"):
        generate(make_queries(2), tmp_path / "out", scripted(), progress=False)


def test_a_complete_run_needs_no_model_any_more(make_queries: Make, scripted: Make, tmp_path: Path) -> None:
    generate(make_queries(2), tmp_path / "out", scripted(), progress=False)
    (tmp_path / "out" / "qrels" / "train.tsv").unlink()

    class Gone(type(scripted())):  # type: ignore[misc]
        async def start(self) -> None:
            raise AssertionError("the model is asked")

    again = generate(make_queries(2), tmp_path / "out", Gone(lambda *_: ""), progress=False)
    assert again.finished == 2
    assert len(read_collection(tmp_path / "out", ["train"]).queries) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(make_queries: Make, scripted: Make, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        generate(make_queries(2), tmp_path / "closed" / "out", scripted(), limits=Limits(), progress=False)
