"""From finished records to files that trainers read: contexts to the BEIR layout, written queries to queries.jsonl.

Everything is streamed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from training.collection_writer import CollectionWriter
from training.errors import InputError
from training.fingerprint import fingerprint
from training.generate.context import RankingContext
from training.generate.store import full
from training.lines import json_objects

QUERIES = "queries.jsonl"


def write_collection(contexts: Iterable[RankingContext], folder: Path) -> None:
    """The contexts in the BEIR layout. A passage is named after its query, grade and place.

    Raises:
        InputError: there is none.
    """
    empty = True
    with CollectionWriter(folder) as writer:
        for context in contexts:
            empty = False
            passages = [
                (f"{context.query_id}_l{passage.grade}_{place}", passage.text, passage.grade)
                for place, passage in enumerate(context.passages)
            ]
            writer.add(context.query_id, context.query, passages)
    if empty:
        raise InputError("no context is left to make a collection of")


def write_queries(records: Path, folder: Path) -> dict[str, int]:
    """Write queries.jsonl from written queries, each text once: the model may ask the same of two passages.

    A query's id is its passage's. 64 bits and a set's overhead a query are kept in memory.
    """
    seen: set[int] = set()
    repeated = 0
    with (folder / QUERIES).open("w", encoding="utf-8") as file:
        for _, record in json_objects(records):
            identity = fingerprint(record["query"])
            if identity in seen:
                repeated += 1
                continue
            seen.add(identity)
            file.write(json.dumps({"_id": record["passage_id"], "text": record["query"]}, ensure_ascii=False) + "\n")
    return {"queries": len(seen), "repeated": repeated}


@contextmanager
def added_whole(folder: Path) -> Iterator[Path]:
    """A folder whose files are moved into `folder` when the block ends well, each whole, in the order of their names.

    That is the BEIR layout's own: judgements come last, so that nothing is judged that is not there.

    Raises:
        InputError: they cannot be written.
    """
    partial = folder / ".collection.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir()
        yield partial
        for path in sorted(path for path in partial.rglob("*") if path.is_file()):
            target = folder / path.relative_to(partial)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
    except OSError as error:
        raise full(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
