"""Writes a collection in the BEIR layout, a query at a time: nothing is kept in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from training.judgements import HEADER


class CollectionWriter:
    """Fills `folder` with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv; a context manager.

    Ids must be unique, without tabs and line ends: they come from a reader that has checked them.
    """

    def __init__(self, folder: Path, split: str = "train") -> None:
        (folder / "qrels").mkdir()
        with ExitStack() as opened:
            self._corpus = opened.enter_context((folder / "corpus.jsonl").open("w", encoding="utf-8"))
            self._queries = opened.enter_context((folder / "queries.jsonl").open("w", encoding="utf-8"))
            self._qrels = opened.enter_context((folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8"))
            self._files = opened.pop_all()
        self._qrels.write(HEADER + "\n")

    def add(self, query_id: str, query: str, passages: Iterable[tuple[str, str, int]]) -> None:
        """A query with its passages: (id, text, grade)."""
        self._queries.write(_line({"_id": query_id, "text": query}))
        for passage_id, text, grade in passages:
            self._corpus.write(_line({"_id": passage_id, "title": "", "text": text}))
            self._qrels.write(f"{query_id}\t{passage_id}\t{grade}\n")

    def __enter__(self) -> CollectionWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.close()


def _line(record: dict[str, str]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
