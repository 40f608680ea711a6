"""The queries (or passages) that something is written for: checked as a whole first, then read one by one.

Memory: 20 bytes an item, whatever its length (a few times that while checking): 20 MB a million.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data import texts
from training.errors import InputError
from training.generate.prompts import Item

DIGEST = 16  # bytes; with 128 bits no two of any number of texts meet by chance
_UNFIT = re.compile(r"[\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]")  # in an id: it has to fit on a line, between tabs


class Inputs:
    """A .jsonl file in the layout of BEIR's queries.jsonl or corpus.jsonl, read once to the end.

    Args:
        path: the file.
        skip_empty: leave out what has no text, as corpora have such; otherwise it is refused.
        texts_differ: refuse a text that is there twice, as is done for ids always.

    Raises:
        InputError: a line that cannot be used, a duplicate, nothing at all.
    """

    def __init__(self, path: Path, skip_empty: bool = False, texts_differ: bool = True) -> None:
        self.path = path
        ids, bodies = bytearray(), bytearray()
        whole = hashlib.sha256()
        for number, identifier, text in texts(path):
            where = f"{path}:{number}"
            if _UNFIT.search(identifier):
                raise InputError(f"{where}: the id {identifier!r} holds a tab, a line break or the like")
            if not text:
                if skip_empty:
                    continue
                raise InputError(f"{where}: {identifier!r} has an empty text")
            if _unwritable(text):
                raise InputError(f"{where}: {identifier!r} holds half a character (a lone surrogate)")
            ids += _digest(identifier)
            if texts_differ:
                bodies += _digest(text)
            whole.update(ids[-DIGEST:] + _digest(text))
        if not ids:
            raise InputError(f"{path}: the file is empty")
        self.digest = whole.hexdigest()
        """Of all ids and texts, in their order."""
        self.total = len(ids) // DIGEST
        if texts_differ:
            self._refuse_twice(bodies, "text", lambda item: item.text)
        self._order, self._sorted = self._refuse_twice(ids, "id", lambda item: item.id)

    def place(self, identifier: str) -> int | None:
        """Where the item of this id stands, from 0; None if there is none."""
        wanted = np.frombuffer(_digest(identifier), dtype=f"S{DIGEST}")[0]
        at = int(np.searchsorted(self._sorted, wanted))
        if at == self.total or self._sorted[at] != wanted:
            return None
        return int(self._order[at])

    def items(self, wanted: NDArray[np.bool_] | None = None) -> Iterator[Item]:
        """The items, or those at the places that are set, read as they are asked for."""
        for place, (_, item) in enumerate(self._lines()):
            if wanted is None or wanted[place]:
                yield item

    def _lines(self) -> Iterator[tuple[int, Item]]:
        return ((number, Item(identifier, text)) for number, identifier, text in texts(self.path) if text)

    def _refuse_twice(
        self, digests: bytearray, what: str, of: Callable[[Item], str]
    ) -> tuple[NDArray[np.uint32], NDArray[np.bytes_]]:
        """The places in the order of their digests, and these; two that are equal are refused, naming the lines."""
        unsorted = np.frombuffer(digests, dtype=f"S{DIGEST}")
        order = np.argsort(unsorted, kind="stable").astype(np.uint32)
        ordered = unsorted[order]
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        if twice.size:
            earlier, later = order[twice], order[twice + 1]
            worst = int(later.argmin())  # the first line that repeats one
            pair = {int(earlier[worst]), int(later[worst])}
            (first, _), (number, item) = (line for place, line in enumerate(self._lines()) if place in pair)
            raise InputError(f"{self.path}:{number}: duplicate {what} {of(item)!r}, first on line {first}")
        return order, ordered


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).digest()


def _unwritable(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)
