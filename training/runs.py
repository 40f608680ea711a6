"""Runs: what a search found for each query, and their files as trec_eval, pyserini and others read and write them.

    query-id Q0 passage-id rank score name      six fields between spaces or tabs

Passages are ranked as trec_eval ranks them, whatever the file's ranks and order: by score in single precision, equal
scores by id, the last first. So a run has the same measures here, in trec_eval and after a way through a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.data import Qrels
from training.errors import InputError
from training.lines import numbered_lines

Run = Mapping[str, Mapping[str, float]]
"""query id → passage id → score"""


def rankings(run: Run) -> dict[str, list[str]]:
    """query id → passage ids, best first."""
    return {query: ranking(scores) for query, scores in run.items()}


def ranking(scores: Mapping[str, float]) -> list[str]:
    singles = np.fromiter(scores.values(), np.float32, len(scores)).tolist()
    return [passage for _, passage in sorted(zip(singles, scores, strict=True), reverse=True)]


def without_identical(run: Run, depth: int | None = None) -> dict[str, dict[str, float]]:
    """The `depth` best of each query (None: all), the passage of the query's own id left out: as BEIR does, in whose
    ArguAna and Quora the query is itself in the corpus."""
    kept = {query: [passage for passage in ranking(scores) if passage != query] for query, scores in run.items()}
    return {query: {passage: run[query][passage] for passage in found[:depth]} for query, found in kept.items()}


def judged_identical(qrels: Qrels) -> int:
    """How many queries have a judgement for a passage of their own id: there, equal ids do not mean equal texts."""
    return sum(query in judged for query, judged in qrels.items())


def write_run(file: Path, run: Run, name: str) -> None:
    """Six fields a line. `file` appears whole: it is the caller's to write it into a staged folder.

    Raises:
        InputError: an id or name with white space, which the format cannot hold.
    """
    _check_word(name, "name of a run")
    with file.open("w", encoding="utf-8") as lines:
        for query, scores in run.items():
            _check_word(query, "query id")
            for rank, passage in enumerate(ranking(scores), start=1):
                _check_word(passage, "passage id")
                lines.write(f"{query} Q0 {passage} {rank} {scores[passage]!r} {name}\n")


def read_run(file: Path) -> dict[str, dict[str, float]]:
    """Raises:
    InputError: a missing file, a broken line, a passage found twice for a query, nothing at all. The message is
        `file:line: what is wrong`.
    """
    run: dict[str, dict[str, float]] = {}
    for number, line in numbered_lines(file):
        fields = line.split()
        if len(fields) != 6:
            raise InputError(f"{file}:{number}: expected 6 fields of a TREC run, got {len(fields)}")
        query, _, passage, _, score, _ = fields
        found = run.setdefault(query, {})
        if passage in found:
            raise InputError(f"{file}:{number}: passage {passage!r} is found twice for query {query!r}")
        found[passage] = _number(score, f"{file}:{number}")
    if not run:
        raise InputError(f"{file}: the file is empty")
    return run


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise InputError(f"{where}: the score must be a number, got {text!r}")
    return number


def _check_word(text: str, what: str) -> None:
    if text.split() != [text]:
        raise InputError(f"{what} {text!r}: white space cannot be in a TREC run file")
