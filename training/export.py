"""Writes training data for other libraries.

    python -m training.export DATA --to FORMAT --out DIR [--group-size K]

DATA is what training.train takes. DIR then holds JSON Lines, which `datasets.load_dataset("json", data_files=…)` reads:

tevatron                       train.jsonl      query_id, query, positive_passages, negative_passages [{docid, text}, …]
sentence-transformers-columns  train.jsonl      query, passage_1 … passage_K, labels [K]
sentence-transformers-lists    train.jsonl      query, passages [any number], labels
pylate                         train.jsonl      query_id, document_ids [K], scores [K]
                               queries.jsonl    query_id, text
                               documents.jsonl  document_id, text

Passages are drawn as for the first epoch of training with the same seed, best grade first. The second and the last need
the same number for every query: queries that have fewer are left out. Tevatron knows two grades; queries without a
passage on either side of --relevant-grade are left out. How many were is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from training.cli import OneLineErrors, exit_status
from training.data import read_collection
from training.errors import InputError
from training.folders import staged
from training.groups import GradedGroups
from training.judgements import Handle, Judgements
from training.measures import RELEVANT_GRADE

Record = dict[str, Any]
Write = Callable[[str, Record], None]
"""Append a record to the file of this name."""


@dataclass(frozen=True)
class Example:
    """A query's place, and the passages drawn for it with their grades, best first."""

    judged: Judgements
    place: int
    drawn: Sequence[tuple[Handle, float]]

    def texts(self) -> list[str]:
        return [self.judged.passage(handle) for handle, _ in self.drawn]

    def grades(self) -> list[float]:
        return [grade for _, grade in self.drawn]

    def passage_id(self, handle: Handle) -> str:
        """Unique also where several corpora have a passage of one id."""
        identifier = self.judged.passage_id(handle)
        return identifier if len(self.judged.corpora) == 1 else f"{handle[0]}:{identifier}"


class Tevatron:
    """Tevatron's "relevancy judged" format, docs/datasets.md there: `--dataset_name json --dataset_path train.jsonl`.

    Its TrainDataset puts a title, where there is one, before the text; ours are joined already and there is none.
    """

    uniform = False

    def __init__(self, relevant_grade: float) -> None:
        self._relevant_grade = relevant_grade

    def write(self, example: Example, write: Write) -> bool:
        sides: tuple[list[Record], list[Record]] = ([], [])  # negative, positive
        for (handle, grade), text in zip(example.drawn, example.texts(), strict=True):
            sides[grade >= self._relevant_grade].append({"docid": example.passage_id(handle), "text": text})
        negative, positive = sides
        if not (positive and negative):  # its reader divides by the number of the one and chooses among the other
            return False
        judged, place = example.judged, example.place
        query = {"query_id": judged.query_id(place), "query": judged.query(place)}
        write("train", query | {"positive_passages": positive, "negative_passages": negative})
        return True


class Columns:
    """For bi-encoders: sentence-transformers reads columns in their order, the query first, and labels by name."""

    uniform = True

    def write(self, example: Example, write: Write) -> bool:
        passages = {f"passage_{number}": text for number, text in enumerate(example.texts(), start=1)}
        query = {"query": example.judged.query(example.place)}
        write("train", query | passages | {"labels": example.grades()})
        return True


class Lists:
    """For sentence-transformers' cross-encoders, whose list-wise losses (LambdaLoss, …) take lists of any length."""

    uniform = False

    def write(self, example: Example, write: Write) -> bool:
        query = example.judged.query(example.place)
        write("train", {"query": query, "passages": example.texts(), "labels": example.grades()})
        return True


class PyLate:
    """What PyLate's `utils.KDProcessing(queries, documents)` joins, for `losses.Distillation`."""

    uniform = True

    def __init__(self, judged: Judgements) -> None:
        self._written = [np.zeros(len(corpus), np.bool_) for corpus in judged.corpora]

    def write(self, example: Example, write: Write) -> bool:
        judged, query = example.judged, example.judged.query_id(example.place)
        ids = [example.passage_id(handle) for handle, _ in example.drawn]
        write("train", {"query_id": query, "document_ids": ids, "scores": example.grades()})
        write("queries", {"query_id": query, "text": judged.query(example.place)})
        for identifier, ((corpus, position), _), text in zip(ids, example.drawn, example.texts(), strict=True):
            if not self._written[corpus][position]:
                self._written[corpus][position] = True
                write("documents", {"document_id": identifier, "text": text})
        return True


Format = Tevatron | Columns | Lists | PyLate
FORMATS = ("tevatron", "sentence-transformers-columns", "sentence-transformers-lists", "pylate")


def build_format(name: str, judged: Judgements, relevant_grade: float) -> Format:
    """The format of this name, of FORMATS."""
    if name == "tevatron":
        return Tevatron(relevant_grade)
    if name == "pylate":
        return PyLate(judged)
    return Columns() if name == "sentence-transformers-columns" else Lists()


def examples(judged: Judgements, groups: GradedGroups) -> Iterator[Example]:
    for place in range(len(groups)):
        yield Example(judged, place, groups.drawn(place))


def export(to: Format, every: Iterator[Example], size: int | None, folder: Path) -> tuple[int, int]:
    """Write what `to` makes of the examples into `folder`; how many queries were written, and how many left out.

    `size` is how many passages each must have if the format is uniform.
    """
    written = left_out = 0
    with ExitStack() as opened:
        files: dict[str, TextIO] = {}

        def write(name: str, record: Record) -> None:
            if name not in files:
                files[name] = opened.enter_context((folder / f"{name}.jsonl").open("w", encoding="utf-8"))
            files[name].write(json.dumps(record, ensure_ascii=False) + "\n")

        for example in every:
            if (not to.uniform or len(example.drawn) == size) and to.write(example, write):
                written += 1
            else:
                left_out += 1
    return written, left_out


def run(options: argparse.Namespace) -> None:
    collection = read_collection(options.data, [options.split])
    judged = collection.qrels[options.split]
    to = build_format(options.to, judged, options.relevant_grade)
    size = options.group_size if options.group_size is not None else collection.group_size
    if size is None:
        everything = GradedGroups(collection, options.split, sys.maxsize, options.seed)
        # A uniform format loses no query with as many passages as the poorest query has.
        size = min(len(everything.drawn(place)) for place in range(len(everything))) if to.uniform else sys.maxsize
    groups = GradedGroups(collection, options.split, size, options.seed)
    with staged(options.out) as folder:
        written, left_out = export(to, examples(judged, groups), size, folder)
        if not written:
            raise InputError(f"{options.data}: no query can be written as {options.to}, all {left_out} are left out")
    print(f"{written} queries written, {left_out} left out: {options.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = OneLineErrors(prog="training.export", description="Training data for other libraries.")
    parser.add_argument("data", type=Path, help="folder in the BEIR layout or YAML of sources")
    parser.add_argument("--to", choices=FORMATS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder; must not exist yet")
    parser.add_argument("--split", default="train", help="default: %(default)s")
    size = "passages a query, drawn as in training (default: the YAML's; else all, or as many as every query has)"
    parser.add_argument("--group-size", type=int, default=None, help=size)
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default: %(default)s)")
    grade = "positive from here, for tevatron (default: %(default)s)"
    parser.add_argument("--relevant-grade", type=float, default=RELEVANT_GRADE, help=grade)
    options = parser.parse_args(arguments)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
