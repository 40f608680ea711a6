"""Reads what a generator's run left: contexts.jsonl and set_aside.jsonl, a line at a time.

contexts.jsonl    {"query_id": "q1", "query": "…", "passages": [{"grade": 3, "text": "…"}, …], …}
set_aside.jsonl   {"query_id": "q2", "reason": "…", …}       queries without a context, and why; may be absent
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.errors import InputError
from training.fingerprint import fingerprint
from training.generate.context import Passage, RankingContext
from training.lines import json_objects

CONTEXTS_FILE, SET_ASIDE_FILE = "contexts.jsonl", "set_aside.jsonl"


def read_contexts(folder: Path) -> Iterator[RankingContext]:
    """The contexts in the file's order; only 64 bits a query are kept.

    Raises:
        InputError: a missing file, a line that is no context, a query id that comes twice. `file:line: what is wrong`.
    """
    seen: set[int] = set()
    for where, context in contexts_as_they_are(folder):
        identity = fingerprint(context.query_id)
        if identity in seen:
            raise InputError(f"{where}: query {context.query_id!r} has a context already")
        seen.add(identity)
        yield context


def contexts_as_they_are(folder: Path) -> Iterator[tuple[str, RankingContext]]:
    """`file:line` and the context of each line; for who knows that no query comes twice: nothing is kept."""
    return ((where, _context(record, where)) for where, record in json_objects(folder / CONTEXTS_FILE))


def count_set_aside(folder: Path) -> Counter[str]:
    """Reason → how many queries were set aside for it. What follows a colon differs each time and is not counted by."""
    path = folder / SET_ASIDE_FILE
    if not path.exists():
        return Counter()
    reasons = (str(record.get("reason", "no reason given")) for _, record in json_objects(path))
    return Counter(reason.partition(":")[0] for reason in reasons)


def _context(record: dict[str, Any], where: str) -> RankingContext:
    query_id, query, passages = record.get("query_id"), record.get("query"), record.get("passages")
    if not isinstance(query_id, str) or not query_id or any(not c.isprintable() for c in query_id):
        raise InputError(f'{where}: "query_id" must be a printable string that is not empty, got {query_id!r}')
    if not isinstance(query, str) or not query.strip():
        raise InputError(f'{where}: "query" must be a string that is not empty, got {query!r}')
    if not isinstance(passages, list):
        raise InputError(f'{where}: "passages" must be a list, got {type(passages).__name__}')
    return RankingContext(query_id, query, tuple(_passage(passage, where) for passage in passages))


def _passage(passage: Any, where: str) -> Passage:
    grade, text = (passage.get("grade"), passage.get("text")) if isinstance(passage, dict) else (None, None)
    if type(grade) is not int or grade < 0 or not isinstance(text, str):  # bool is an int too
        raise InputError(f'{where}: a passage must have an integer "grade" >= 0 and a string "text"')
    return Passage(grade, text)
