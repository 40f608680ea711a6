"""From finished records to files that trainers read: contexts to the BEIR layout, written queries to queries.jsonl.

Passage ids are QUERY_l_GRADE_d_NUMBER, as in training/sample. Everything is streamed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, TextIO

from training.data import HEADER, json_object, numbered_lines
from training.errors import InputError
from training.generate.context import Passage, RankingContext
from training.generate.store import full

CONTEXTS = "contexts.jsonl"
CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels/train.tsv"


def read_contexts(folder: Path) -> Iterator[RankingContext]:
    """The contexts that a run has finished in `folder`, one by one, in the order they were finished.

    Raises:
        InputError: a line that is no context; the message names file and line.
    """
    path = folder / CONTEXTS
    for number, line in numbered_lines(path):
        record = json_object(line, f"{path}:{number}")
        try:
            passages = tuple(Passage(int(each["grade"]), str(each["text"])) for each in record["passages"])
            yield RankingContext(str(record["query_id"]), str(record["query"]), passages)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}:{number}: is no ranking context") from error


def write_collection(contexts: Iterable[RankingContext], folder: Path) -> int:
    """Write corpus.jsonl, queries.jsonl and qrels/train.tsv into `folder`; how many passages there are.

    Each file appears whole, the judgements last.
    """
    count = 0
    with _whole(folder, CORPUS, QUERIES, QRELS) as (corpus, queries, qrels):
        qrels.write(HEADER + "\n")
        for context in contexts:
            queries.write(_line({"_id": context.query_id, "text": context.query}))
            number: Counter[int] = Counter()
            for passage in context.passages:
                identifier = f"{context.query_id}_l_{passage.grade}_d_{number[passage.grade]}"
                number[passage.grade] += 1
                count += 1
                corpus.write(_line({"_id": identifier, "title": "", "text": passage.text}))
                qrels.write(f"{context.query_id}\t{identifier}\t{passage.grade}\n")
    return count


def write_queries(records: Path, folder: Path) -> dict[str, int]:
    """Write queries.jsonl from written queries, each text once: the model may ask the same of two passages.

    A query's id is its passage's. 8 bytes and a set's overhead a query are kept in memory.
    """
    seen: set[int] = set()
    repeated = 0
    with _whole(folder, QUERIES) as (queries,):
        for number, line in numbered_lines(records):
            record = json_object(line, f"{records}:{number}")
            text = record["query"]
            key = int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
            if key in seen:
                repeated += 1
                continue
            seen.add(key)
            queries.write(_line({"_id": record["passage_id"], "text": text}))
    return {"queries": len(seen), "repeated": repeated}


@contextmanager
def _whole(folder: Path, *names: str) -> Iterator[list[TextIO]]:
    """Files to write that appear under their names when the block ends well, and not at all otherwise."""
    partials = [folder / f".{name.replace('/', '-')}.partial" for name in names]
    try:
        with ExitStack() as stack:
            yield [stack.enter_context(path.open("w", encoding="utf-8", newline="\n")) for path in partials]
        for partial, name in zip(partials, names, strict=True):
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(partial, folder / name)
    except OSError as error:
        raise full(folder, error) from error
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
