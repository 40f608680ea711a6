"""What is evaluated on: a folder in the BEIR layout, a YAML of sources, a hub name; or a list of such, with names.

The list is a YAML file, name → where it lies (`evaluation_sets.yaml` is the paper's):

    dl19: {data: mteb/msmarco@c5a29a1, split: test, relevant_grade: 2}
    ours: {data: ../ours}

`data` is a folder, relative to the file, or a hub name. `queries` and `qrels` may name files elsewhere, also in a
dataset on the hub ("owner/name:path"). `split` is test unless told, `relevant_grade` 1. Grades below 0 count as 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data import Collection, read_collection
from training.errors import InputError
from training.hub import hub_folder, is_hub_name
from training.judgements import Judgements, Selection, Source
from training.sources import read_yaml
from training.texts import Texts

PAPERS_SETS = Path(__file__).parent / "evaluation_sets.yaml"
_PATHS = ("data", "queries", "qrels")


@dataclass(frozen=True)
class EvaluationSet:
    name: str
    data: str  # folder, YAML or hub name
    split: str = "test"
    relevant_grade: int = 1
    queries: str | None = None  # a file in place of the collection's
    qrels: str | None = None
    base: Path = Path()  # what relative paths start from

    def read(self) -> Collection:
        """Raises:
        InputError: see `open_collection` and `read_collection`; no judgement reaches the relevant grade.
        """
        if self.queries is None and self.qrels is None:
            collection = open_collection(self.data, self.split, self.base)
        else:
            folder = _folder(self.data, self.base)
            queries = self._file(self.queries) if self.queries else folder / "queries.jsonl"
            qrels = self._file(self.qrels) if self.qrels else folder / "qrels" / f"{self.split}.tsv"
            collection = _searched(folder, queries, qrels, self.split)
        check_relevant(collection, self.split, self.relevant_grade, self.name)
        return collection

    def _file(self, text: str) -> Path:
        name, colon, path = text.partition(":")
        if colon and is_hub_name(name):
            return hub_folder(name, (path,)) / path
        return self.base / text


def open_collection(data: str, split: str, base: Path = Path()) -> Collection:
    """A collection to evaluate on: a folder, a YAML of sources, or, if there is neither, a hub name.

    Raises:
        InputError: it cannot be had or read.
    """
    path = base / data
    if path.exists() or not is_hub_name(data):
        return read_collection(path, [split])
    folder = hub_folder(data)
    return _searched(folder, folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv", split)


def check_relevant(collection: Collection, split: str, relevant_grade: int, name: str) -> None:
    """Raises:
    InputError: no judgement reaches the relevant grade, so that all measures but nDCG would be 0.
    """
    highest = int(collection.qrels[split].highest_grade())
    if highest < relevant_grade:
        raise InputError(
            f"{name}: the highest grade of {split!r} is {highest}, below the relevant grade {relevant_grade}"
        )


def check_name(name: str, where: str) -> None:
    """Raises:
    InputError: a name that cannot be a file's in a result, or a run's.
    """
    if re.fullmatch(r"\w[\w.-]*", name) is None:
        raise InputError(f"{where}: a name has letters, digits, '.', '_' and '-' only, got {name!r}")


def read_sets(file: Path, only: Sequence[str] = ()) -> list[EvaluationSet]:
    """The sets of a file, or those named.

    Raises:
        InputError: a missing or broken file, an unknown key or name.
    """
    content = read_yaml(file)
    if not isinstance(content, dict) or not content:
        raise InputError(f"{file}: must be a mapping of names to evaluation sets")
    sets = {str(name): _set(str(name), fields, file) for name, fields in content.items()}
    for name in only:
        if name not in sets:
            raise InputError(f"{file}: has no {name!r}; there are {', '.join(sets)}")
    return [sets[name] for name in only or sets]


def _set(name: str, fields: Any, file: Path) -> EvaluationSet:
    where = f"{file}: {name}"
    check_name(name, str(file))
    if not isinstance(fields, Mapping) or "data" not in fields:
        raise InputError(f"{where}: must be a mapping with the key data")
    known = (*_PATHS, "split", "relevant_grade")
    for key, value in fields.items():
        if key not in known:
            raise InputError(f"{where}: {key}: no such key; there are {', '.join(known)}")
        if key == "relevant_grade":
            if type(value) is not int or value < 1:
                raise InputError(f"{where}: relevant_grade: must be an integer of at least 1, got {value!r}")
        elif not isinstance(value, str) or not value:
            raise InputError(f"{where}: {key}: must be a text, got {value!r}")
    return EvaluationSet(name, **fields, base=file.parent)


def _folder(data: str, base: Path) -> Path:
    path = base / data
    return path if path.exists() or not is_hub_name(data) else hub_folder(data)


def _searched(folder: Path, queries: Path, qrels: Path, split: str) -> Collection:
    """Others' files: queries without judgements in this split are no mistake there, and TREC-COVID has grades of −1."""
    corpus, asked = Texts(folder / "corpus.jsonl"), Texts(queries, queries=True)
    judgements = Judgements([Source(corpus, asked, qrels, Selection(min_score=0))])
    return Collection(corpus, asked, {split: judgements})
