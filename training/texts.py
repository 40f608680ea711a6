"""The texts of a corpus.jsonl or queries.jsonl by id or by position, read from the file when they are asked for.

    {"_id": "p1", "title": "…", "text": "…"}    the title may be absent or empty

Memory-mapped is where each line begins and the ids' fingerprints, sorted: 20 bytes a text. The lines themselves are
read by pread and not mapped: a file that shrinks meanwhile is then an error and not a crash.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from training.errors import InputError
from training.fingerprint import fingerprint
from training.index import CACHED_FROM, Arrays, cached, small
from training.lines import decoded, json_object, raw_lines

Positions = NDArray[np.integer[Any]]


class Texts(Mapping[str, str]):
    """id → title and text, in the file's order. Pickles as the path: a worker opens the file itself.

    Args:
        path: the file.
        queries: its texts are queries: none may be empty (real corpora do hold empty passages), and there is
            `digests`, by which two files' queries are compared.

    Raises:
        InputError: a missing or empty file, a line that is no JSON object or has no usable `_id` or text, a duplicate
            id. The message is `file:line: what is wrong`.
    """

    def __init__(self, path: Path, queries: bool = False) -> None:
        self.path = path
        self._queries = queries
        arrays = cached("queries" if queries else "corpus", [path], lambda: _index(path, queries))
        self._starts: NDArray[np.int64] = arrays["starts"]  # [n + 1]
        self._prints: NDArray[np.uint64] = arrays["prints"]  # [n], sorted
        self._order: Positions = arrays["order"]  # [n], whose prints these are
        self.digests: NDArray[np.uint64] | None = arrays.get("digests")  # [n], the texts' fingerprints
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return (Texts, (self.path, self._queries))

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        return (self.id_at(position) for position in range(len(self)))

    def __getitem__(self, identifier: str) -> str:
        position = int(self.positions([identifier])[0])
        record = self._record(position) if position >= 0 else {}
        if record.get("_id") != identifier:
            raise KeyError(identifier)
        return _text(record.get("title"), record["text"])

    def values(self) -> ValuesView[str]:
        return _Values(self)

    def at(self, position: int) -> str:
        """Title and text of the `position`-th line."""
        record = self._record(position)
        return _text(record.get("title"), record["text"])

    def id_at(self, position: int) -> str:
        identifier: str = self._record(position)["_id"]
        return identifier

    def find(self, identifier: str) -> int | None:
        """The position of an id; None if there is no such."""
        position = int(self.positions([identifier])[0])
        return position if position >= 0 and self.id_at(position) == identifier else None

    def positions(self, identifiers: Sequence[str]) -> NDArray[np.int64]:
        """The position of each id, −1 where there is no such.

        By fingerprint: an unknown id is taken for a known one with probability 5e-13 among 10 million.
        """
        wanted = np.fromiter(map(fingerprint, identifiers), np.uint64, len(identifiers))
        places = np.minimum(np.searchsorted(self._prints, wanted), len(self) - 1)
        return np.where(self._prints[places] == wanted, self._order[places], -1).astype(np.int64)

    def prints(self) -> NDArray[np.uint64]:
        """The ids' fingerprints by position."""
        by_position = np.empty_like(self._prints)
        by_position[self._order] = self._prints
        return by_position

    def _record(self, position: int) -> dict[str, Any]:
        start, end = self._starts[position : position + 2].tolist()
        try:
            record: dict[str, Any] = json.loads(os.pread(self._file.fileno(), end - start, start))
        except ValueError as error:
            raise InputError(f"{self.path}:{position + 1}: has changed since the file was opened") from error
        return record


class _Values(ValuesView[str]):
    """The texts in the file's order, without a search for each."""

    _mapping: Texts

    def __iter__(self) -> Iterator[str]:
        return map(self._mapping.at, range(len(self._mapping)))


def _text(title: str | None, text: str) -> str:
    return f"{title or ''} {text}".strip()


def _index(path: Path, queries: bool) -> Arrays:
    starts, prints, digests = array("q", [0]), array("Q"), array("Q")
    large = path.stat().st_size >= CACHED_FROM
    with tqdm(desc=f"indexing {path.name}", unit=" lines", disable=not large, leave=False) as bar:
        for number, raw in raw_lines(path):
            record = json_object(decoded(raw, path, number).rstrip("\r\n"), path, number)
            identifier, text, title = record.get("_id"), record.get("text"), record.get("title")
            if not isinstance(identifier, str) or not identifier:
                raise InputError(f'{path}:{number}: "_id" must be a string that is not empty, got {identifier!r}')
            if not isinstance(text, str) or not isinstance(title or "", str):
                raise InputError(f'{path}:{number}: "text" (and "title" where given) must be a string')
            if queries:
                whole = _text(title, text)
                if not whole:
                    raise InputError(f"{path}:{number}: {identifier!r} has an empty text")
                digests.append(fingerprint(whole))
            starts.append(starts[-1] + len(raw))
            prints.append(fingerprint(identifier))
            if number % 10_000 == 0:
                bar.update(10_000)
    if not prints:
        raise InputError(f"{path}: the file is empty")
    by_position = np.frombuffer(prints, np.uint64)
    order = np.argsort(by_position, kind="stable")
    in_order = by_position[order]
    arrays = {"starts": np.frombuffer(starts, np.int64), "prints": in_order, "order": small(order, len(order))}
    if queries:
        arrays["digests"] = np.frombuffer(digests, np.uint64)
    _refuse_duplicates(path, order, in_order)
    return arrays


def _refuse_duplicates(path: Path, order: Positions, prints: NDArray[np.uint64]) -> None:
    again = np.flatnonzero(prints[1:] == prints[:-1])
    if not len(again):
        return
    # Of equal prints the earlier line comes first: the sort is stable. The first line that repeats one is named.
    place = again[np.argmin(order[again + 1])]
    first, second = int(order[place]), int(order[place + 1])
    lines = {number: line for number, line in raw_lines(path) if number in (first + 1, second + 1)}
    ids = [json.loads(lines[position + 1])["_id"] for position in (first, second)]
    if ids[0] != ids[1]:
        raise InputError(f"{path}:{second + 1}: id {ids[1]!r} has the fingerprint of {ids[0]!r}: rename one of them")
    raise InputError(f"{path}:{second + 1}: duplicate id {ids[1]!r}, first on line {first + 1}")
