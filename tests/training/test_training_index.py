"""Indexes: built once, mapped, built again when a file changes, whole whatever happens. Texts by position."""

from __future__ import annotations

import json
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import index
from training.data import read_collection
from training.errors import InputError
from training.fingerprint import fingerprint
from training.index import INDEX_FILE, Arrays, cached
from training.texts import Texts


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder, in which the smallest file is worth an index."""
    monkeypatch.setenv("WASSRANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "CACHED_FROM", 0)
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("one\ntwo\n", encoding="utf-8")
    return tmp_path / "file"


def build() -> Arrays:
    return {"numbers": np.arange(5)}


def never() -> Arrays:
    raise AssertionError("built again")


def test_an_index_is_built_once_and_mapped(cache: Path, file: Path) -> None:
    cached("kind", [file], build)
    numbers = cached("kind", [file], never)["numbers"]
    assert isinstance(numbers, np.memmap)
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(AssertionError, match="built again"):
        cached("other kind", [file], never)


def test_small_files_leave_nothing(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WASSRANK_CACHE", str(tmp_path / "cache"))
    cached("kind", [file], build)
    assert not (tmp_path / "cache").exists()


def test_a_file_that_changed_is_indexed_again(cache: Path, file: Path) -> None:
    cached("kind", [file], build)
    times = file.stat()
    file.write_text("two\none\n", encoding="utf-8")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and time of modification
    assert cached("kind", [file], lambda: {"numbers": np.arange(2)})["numbers"].tolist() == [0, 1]
    assert len(list(cache.glob("kind-*/"))) == 1  # in place of the old one


def test_a_file_that_changes_meanwhile_is_refused(cache: Path, file: Path) -> None:
    def slow() -> Arrays:
        file.write_text("three\n", encoding="utf-8")
        return build()

    with pytest.raises(InputError, match="changed while it was read"):
        cached("kind", [file], slow)
    assert list(cache.glob("*/")) == []


def test_a_build_that_fails_or_was_killed_leaves_nothing(cache: Path, file: Path) -> None:
    with pytest.raises(AssertionError):
        cached("kind", [file], never)
    cached("kind", [file], build)
    (folder,) = cache.glob("kind-*/")
    partial = cache / f".{folder.name}.partial-x"
    partial.mkdir()
    cached("kind", [file], never)
    assert list(cache.glob("*/")) == [folder]
    assert not partial.exists()


def test_of_several_at_once_one_builds(cache: Path, file: Path) -> None:
    built: list[int] = []

    def slow() -> Arrays:
        built.append(1)
        time.sleep(0.05)
        return build()

    threads = [threading.Thread(target=cached, args=("kind", [file], slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [1]


@pytest.mark.parametrize("damage", ["truncated", "pickled", "no json"])
def test_a_damaged_index_is_named_and_nothing_is_unpickled(cache: Path, file: Path, damage: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.abort, ())

    cached("kind", [file], build)
    (folder,) = cache.glob("kind-*/")
    if damage == "truncated":
        os.truncate(folder / "numbers.npy", 140)
    elif damage == "pickled":
        np.save(folder / "numbers.npy", np.array([Trap()]), allow_pickle=True)
    else:
        (folder / INDEX_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=f"{folder}: a damaged index, delete it"):
        cached("kind", [file], never)


def test_a_cache_that_cannot_be_written_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("WASSRANK_CACHE", str(file / "cache"))
    with pytest.raises(InputError, match=r"the cache cannot be written: .*; see WASSRANK_CACHE"):
        cached("kind", [file], build)


def test_a_collection_from_the_cache_is_the_same(cache: Path, collection_folder: Path) -> None:
    def content() -> list[Any]:
        read = read_collection(collection_folder, ["train", "test"])
        return [dict(part) for part in (read.corpus, read.queries, *read.qrels.values())]

    built, from_cache = content(), content()
    assert built == from_cache
    assert len(built[0]) == 48
    assert sorted(path.name.split("-")[0] for path in cache.glob("*/")) == ["corpus", "qrels", "qrels", "queries"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    records = [{"_id": f"p{i}", "title": "Tïtle" if i % 2 else "", "text": f"text\n{i}"} for i in range(100)]
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=i % 3 == 0) + "\n" for i, r in enumerate(records)), encoding="utf-8"
    )
    return path


def test_texts_are_read_in_any_order(texts: Path) -> None:
    read = Texts(texts)
    for i in (99, 0, 41, 42):
        expected = f"Tïtle text\n{i}" if i % 2 else f"text\n{i}"
        assert (read.id_at(i), read.at(i), read[f"p{i}"], read.find(f"p{i}")) == (f"p{i}", expected, expected, i)
    assert read.positions(["p7", "none", "p0"]).tolist() == [7, -1, 0]
    assert "none" not in read
    assert list(read) == [f"p{i}" for i in range(100)]
    assert list(read.values()) == [read[f"p{i}"] for i in range(100)]
    with pytest.raises(KeyError):
        read["none"]


def test_an_unknown_id_with_a_known_fingerprint_is_still_unknown(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Texts(texts)
    monkeypatch.setattr("training.texts.fingerprint", lambda text: fingerprint("p3"))
    assert read["p3"] == "Tïtle text\n3"
    assert read.find("none") is None
    with pytest.raises(KeyError):
        read["none"]


def test_texts_travel_to_a_worker_as_their_path(texts: Path) -> None:
    sent = pickle.dumps(Texts(texts))
    assert len(sent) < 300
    assert pickle.loads(sent)["p3"] == "Tïtle text\n3"


def test_a_file_cut_short_meanwhile_is_an_error_and_no_crash(texts: Path) -> None:
    read = Texts(texts)
    os.truncate(texts, 50)
    with pytest.raises(InputError, match=r"corpus.jsonl:100: has changed since the file was opened"):
        read.at(99)


def test_half_a_surrogate_pair_is_named(texts: Path) -> None:
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"_id": "whole", "text": "\\ud83d\\ude00"}\n{"_id": "half", "text": "\\ud83d"}\n')
    with pytest.raises(InputError, match=r"corpus.jsonl:102: holds half of a surrogate pair"):
        Texts(texts)


def test_of_several_duplicates_the_first_line_that_repeats_is_named(texts: Path) -> None:
    with texts.open("a", encoding="utf-8") as file:
        for i in (90, 10, 90):
            file.write(json.dumps({"_id": f"p{i}", "text": "again"}) + "\n")
    with pytest.raises(InputError, match=r"corpus.jsonl:101: duplicate id 'p90', first on line 91$"):
        Texts(texts)


def test_ids_of_one_fingerprint_are_refused(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.texts.fingerprint", lambda text: 7)
    with pytest.raises(InputError, match=r"corpus.jsonl:2: id 'p1' has the fingerprint of 'p0'"):
        Texts(texts)
