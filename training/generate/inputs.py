"""The queries (or passages) that something is written for: checked as a whole first, then read one by one.

Kept in memory, or mapped to it, are 28 bytes an item, whatever its length (see training.texts).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import InputError
from training.generate.prompts import Item
from training.lines import json_objects
from training.texts import Texts


class Inputs:
    """A .jsonl file in the layout of BEIR's queries.jsonl or corpus.jsonl, read once to the end.

    Args:
        path: the file.
        corpus: it holds passages. Of those some may be empty, as real corpora have such, and are left out; a query
            may be neither empty nor there twice.

    Raises:
        InputError: a line that cannot be used, a duplicate, nothing at all.
    """

    def __init__(self, path: Path, corpus: bool = False) -> None:
        self.path = path
        self._texts = Texts(path, queries=not corpus)
        if self._texts.digests is not None:
            self._refuse_twice(self._texts.digests)
        self.usable = np.ones(len(self._texts), dtype=np.bool_)
        """By place in the file: has it a text?"""
        whole = hashlib.sha256()
        for place, item in enumerate(self._all()):
            if not item.id.isprintable():
                raise InputError(f"{path}:{place + 1}: the id {item.id!r} holds a tab, a line break or the like")
            self.usable[place] = bool(item.text)
            whole.update(f"{item.id}\t{item.text}\0".encode())
        self.digest = whole.hexdigest()
        """Of all ids and texts, in their order."""

    def place(self, identifier: str) -> int | None:
        """Where in the file the item of this id stands, from 0; None if there is none."""
        return self._texts.find(identifier)

    def items(self, wanted: NDArray[np.bool_]) -> Iterator[Item]:
        """The items at the places that are set, read as they are asked for."""
        return (item for place, item in enumerate(self._all()) if wanted[place])

    def _all(self) -> Iterator[Item]:
        for _, record in json_objects(self.path):
            yield Item(record["_id"], f"{record.get('title') or ''} {record['text']}".strip())

    def _refuse_twice(self, digests: NDArray[np.uint64]) -> None:
        order = np.argsort(digests, kind="stable")
        again = np.flatnonzero(digests[order[1:]] == digests[order[:-1]])
        for first, second in sorted(zip(order[again].tolist(), order[again + 1].tolist(), strict=True)):
            text = self._texts.at(second)
            if text == self._texts.at(first):  # and not by chance of the same digest
                raise InputError(f"{self.path}:{second + 1}: duplicate text {text!r}, first on line {first + 1}")
