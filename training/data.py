"""Reads a graded retrieval collection in the BEIR layout, and refuses a broken one naming file and line.

corpus.jsonl       {"_id": "p1", "title": "…", "text": "…"}    the title may be absent or empty
queries.jsonl      {"_id": "q1", "text": "…"}
qrels/SPLIT.tsv    query-id<TAB>corpus-id<TAB>score            first line: exactly these three names
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import InputError

Qrels = dict[str, dict[str, int]]
"""query id → passage id → grade"""

HEADER = "query-id\tcorpus-id\tscore"


@dataclass(frozen=True)
class Collection:
    corpus: dict[str, str]  # passage id → title and text
    queries: dict[str, str]  # query id → text, of all splits
    qrels: dict[str, Qrels]  # split → its judgements, of the splits asked for

    def highest_grade(self) -> int:
        """The highest grade of any passage in the splits read."""
        return max(g for qrels in self.qrels.values() for grades in qrels.values() for g in grades.values())


def read_collection(folder: Path, splits: Sequence[str]) -> Collection:
    """Read corpus, queries and the judgements of `splits` from `folder`.

    Every qrels file is read, also those not asked for: only so is it known which query has no passages.

    Raises:
        InputError: a missing file, a line that is no JSON object or has no usable `_id` or text, a duplicate
            id or judgement, a judgement naming an unknown query or passage, a grade that is no integer ≥ 0, a
            query that no judgement names. The message is `file:line: what is wrong`.
    """
    corpus, _ = _read_texts(folder / "corpus.jsonl", empty_allowed=True)  # real corpora hold empty passages
    queries, query_lines = _read_texts(folder / "queries.jsonl", empty_allowed=False)
    files = {split: folder / "qrels" / f"{split}.tsv" for split in splits}
    for path in sorted((folder / "qrels").glob("*.tsv")):
        files.setdefault(path.stem, path)
    qrels = {split: _read_qrels(path, corpus, queries) for split, path in files.items()}
    for query, line in query_lines.items():
        if not any(query in judged for judged in qrels.values()):
            raise InputError(f"{folder / 'queries.jsonl'}:{line}: query {query!r} has no passages in any qrels file")
    return Collection(corpus, queries, {split: qrels[split] for split in splits})


def _read_texts(path: Path, empty_allowed: bool) -> tuple[dict[str, str], dict[str, int]]:
    """id → text and id → line number of a .jsonl file."""
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in _numbered_lines(path):
        record = _json_object(line, f"{path}:{number}")
        identifier, text, title = record.get("_id"), record.get("text"), record.get("title") or ""
        if not isinstance(identifier, str) or not identifier:
            raise InputError(f'{path}:{number}: "_id" must be a string that is not empty, got {identifier!r}')
        if not isinstance(text, str) or not isinstance(title, str):
            raise InputError(f'{path}:{number}: "text" (and "title" where given) must be a string')
        if identifier in texts:
            raise InputError(f"{path}:{number}: duplicate id {identifier!r}, first on line {lines[identifier]}")
        texts[identifier] = f"{title} {text}".strip()
        lines[identifier] = number
        if not texts[identifier] and not empty_allowed:
            raise InputError(f"{path}:{number}: {identifier!r} has an empty text")
    if not texts:
        raise InputError(f"{path}: the file is empty")
    return texts, lines


def _read_qrels(path: Path, corpus: dict[str, str], queries: dict[str, str]) -> Qrels:
    qrels: Qrels = {}
    lines = _numbered_lines(path)
    _, header = next(lines, (1, ""))
    if header != HEADER:
        raise InputError(f"{path}:1: the header must be {HEADER!r}, got {header!r}")
    for number, line in lines:
        where = f"{path}:{number}"
        fields = line.split("\t")
        if len(fields) != 3:
            raise InputError(f"{where}: expected 3 fields separated by tabs, got {len(fields)}")
        query, passage, grade = fields
        if query not in queries:
            raise InputError(f"{where}: unknown query {query!r}, not in queries.jsonl")
        if passage not in corpus:
            raise InputError(f"{where}: unknown passage {passage!r}, not in corpus.jsonl")
        if not (grade.isascii() and grade.isdigit()):
            raise InputError(f"{where}: the grade must be an integer >= 0, got {grade!r}")
        judged = qrels.setdefault(query, {})
        if passage in judged:
            raise InputError(f"{where}: passage {passage!r} is judged twice for query {query!r}")
        judged[passage] = int(grade)
    if not qrels:
        raise InputError(f"{path}: no judgements")
    return qrels


def json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`file:line` and the object of each line of a .jsonl file.

    Raises:
        InputError: the file cannot be read, or a line is no JSON object.
    """
    for number, line in _numbered_lines(path):
        yield f"{path}:{number}", _json_object(line, f"{path}:{number}")


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(record).__name__}")
    return record


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:  # line by line, so that the error can name the line
                    yield number, line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise InputError(f"{path}:{number}: not UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
