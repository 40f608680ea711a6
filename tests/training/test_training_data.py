"""Reading a collection: what is read, and that every kind of damage is named with its file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.data import read_collection
from training.errors import InputError

SPLITS = ["train", "test"]


def replace_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def append_line(path: Path, line: str) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines, line]) + "\n", encoding="utf-8")
    return len(lines) + 1


def complaint(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_collection(folder, SPLITS)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_sound_collection_is_read_whole(collection_folder: Path) -> None:
    collection = read_collection(collection_folder, SPLITS)
    assert len(collection.corpus) == 48
    assert len(collection.queries) == 12
    assert set(collection.qrels) == {"train", "test"}
    assert collection.qrels["test"]["q8"] == {"q8_g0": 0, "q8_g1": 1, "q8_g2": 2, "q8_g3": 3}
    assert collection.highest_grade() == 3


def test_the_title_precedes_the_text(collection_folder: Path) -> None:
    replace_line(collection_folder / "corpus.jsonl", 1, json.dumps({"_id": "q0_g0", "title": "Ant", "text": "lives."}))
    assert read_collection(collection_folder, SPLITS).corpus["q0_g0"] == "Ant lives."


def test_windows_line_ends_change_nothing(collection_folder: Path) -> None:
    def content() -> list[Any]:
        collection = read_collection(collection_folder, SPLITS)
        return [dict(part) for part in (collection.corpus, collection.queries, *collection.qrels.values())]

    expected = content()
    for path in [*collection_folder.glob("*.jsonl"), *collection_folder.glob("qrels/*.tsv")]:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert content() == expected


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"_id": "x", "text": ', "not JSON"),
        pytest.param(
            '{"_id": "x", "text": ' + "1" * 5000 + "}", "JSON that Python cannot hold", id="a number of 5000 digits"
        ),
        pytest.param("[" * 100_000, "JSON that Python cannot hold", id="nested"),
        ("", "not JSON"),
        ("[1, 2]", "expected a JSON object, got list"),
        ('{"text": "no id"}', '"_id" must be a string'),
        ('{"_id": 7, "text": "a number"}', '"_id" must be a string'),
        ('{"_id": "x"}', '"text"'),
    ],
)
def test_a_bad_line_is_named(collection_folder: Path, name: str, line: str, problem: str) -> None:
    replace_line(collection_folder / name, 3, line)
    message = complaint(collection_folder)
    assert message.startswith(f"{collection_folder / name}:3: ")
    assert problem in message


def test_bytes_that_are_not_utf8_are_named(collection_folder: Path) -> None:
    path = collection_folder / "corpus.jsonl"
    path.write_bytes(path.read_bytes() + b'{"_id": "x", "text": "\xff"}\n')
    assert complaint(collection_folder) == f"{path}:49: not UTF-8"


@pytest.mark.parametrize(("name", "first"), [("corpus.jsonl", "q0_g0"), ("queries.jsonl", "q0")])
def test_a_duplicate_id_is_named(collection_folder: Path, name: str, first: str) -> None:
    number = append_line(collection_folder / name, json.dumps({"_id": first, "text": "again"}))
    message = complaint(collection_folder)
    assert message == f"{collection_folder / name}:{number}: duplicate id '{first}', first on line 1"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nobody\tq0_g0\t1", "unknown query 'nobody'"),
        ("q0\tnothing\t1", "unknown passage 'nothing'"),
        ("q0\tq1_g0\t1.5", "the grade must be an integer >= 0, got '1.5'"),
        ("q0\tq1_g0\thigh", "the grade must be a number, got 'high'"),
        ("q0\tq1_g0\t-1", "the grade must be an integer >= 0, got '-1'"),
        ("q0\tq0_g0\t2", "judged twice"),
        ("q0 q1_g0 1", "expected 3 fields separated by tabs, got 1"),
    ],
)
def test_a_bad_judgement_is_named(collection_folder: Path, line: str, problem: str) -> None:
    path = collection_folder / "qrels" / "train.tsv"
    number = append_line(path, line)
    message = complaint(collection_folder)
    assert message.startswith(f"{path}:{number}: ")
    assert problem in message


def test_of_several_repeated_judgements_the_first_line_that_repeats_is_named(collection_folder: Path) -> None:
    path = collection_folder / "qrels" / "train.tsv"
    number = append_line(path, "q7\tq7_g0\t1")
    for line in ("q1\tq7_g0\t1", "q0\tq0_g0\t0", "q1\tq7_g0\t2", "q7\tq7_g0\t0"):
        append_line(path, line)
    assert complaint(collection_folder) == f"{path}:{number}: passage 'q7_g0' is judged twice for query 'q7'"


def test_qrels_without_their_header_are_refused(collection_folder: Path) -> None:
    path = collection_folder / "qrels" / "test.tsv"
    replace_line(path, 1, "q8\tq8_g0\t0")
    assert complaint(collection_folder).startswith(f"{path}:1: the header must be ")


def test_a_query_without_passages_is_named(collection_folder: Path) -> None:
    number = append_line(collection_folder / "queries.jsonl", '{"_id": "lonely", "text": "w1"}')
    message = complaint(collection_folder)
    assert message.startswith(f"{collection_folder / 'queries.jsonl'}:{number}: query 'lonely' has no passages")


def test_a_query_may_be_judged_in_a_split_that_is_not_asked_for(collection_folder: Path) -> None:
    append_line(collection_folder / "queries.jsonl", '{"_id": "q99", "text": "w1"}')
    path = collection_folder / "qrels" / "dev.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq99\tq0_g0\t1\n", encoding="utf-8")
    assert set(read_collection(collection_folder, SPLITS).qrels) == {"train", "test"}


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"])
def test_a_missing_file_is_named(collection_folder: Path, name: str) -> None:
    (collection_folder / name).unlink()
    assert complaint(collection_folder).startswith(f"{collection_folder / name}: cannot be read")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"])
def test_an_empty_file_is_named(collection_folder: Path, name: str) -> None:
    (collection_folder / name).write_text("", encoding="utf-8")
    assert complaint(collection_folder).startswith(f"{collection_folder / name}:")
