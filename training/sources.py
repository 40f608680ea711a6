"""The YAML file that says what is trained on: sources in the BEIR layout, each filtered and graded in its own way.

    group_size: 7                   # passages a query; may be absent
    train:                          # a list of sources; so are dev and test
      - folder: msmarco             # corpus.jsonl, queries.jsonl and qrels/train.tsv in it,
        min_score: 1
        score_transform: 3
      - folder: msmarco
        qrels: mined/train.tsv      # unless one of corpus, queries, qrels is named
        score_transform: 1
        group_random_k: 2
      - corpus: synthetic/corpus.jsonl
        queries: msmarco/queries.jsonl
        qrels: synthetic/qrels/train.tsv
    test:
      - folder: scifact

Paths are relative to the file's own folder. min_score, max_score, score_transform and group_random_k are `Selection`'s;
the names and what they mean are those of Trove (https://github.com/BatsResearch/trove), which the paper was trained
with.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from training.errors import InputError, first_line
from training.judgements import REAL, ROUNDINGS, Selection, Transform

SPLITS = ("train", "dev", "test")
PATHS = ("folder", "corpus", "queries", "qrels")
SELECTION = ("min_score", "max_score", "score_transform", "group_random_k")


@dataclass(frozen=True)
class SourceOptions:
    corpus: Path
    queries: Path
    qrels: Path
    selection: Selection


@dataclass(frozen=True)
class DataOptions:
    splits: Mapping[str, Sequence[SourceOptions]]
    group_size: int | None


def read_sources(file: Path) -> DataOptions:
    """What the file says; the files it names are not opened yet.

    Raises:
        InputError: no YAML, an unknown or missing key, a value of the wrong kind: `file: key: what is wrong`.
    """
    content = read_yaml(file)
    _check_keys(content, ("group_size", *SPLITS), str(file))
    size = content.pop("group_size", None)
    if size is not None:
        _check_count(size, f"{file}: group_size")
    splits: dict[str, Sequence[SourceOptions]] = {}
    for split, sources in content.items():
        if not isinstance(sources, list) or not sources:
            raise InputError(f"{file}: {split}: must be a list of sources, got {sources!r}")
        splits[split] = [
            _source(source, split, file.parent, f"{file}: {split}[{place}]") for place, source in enumerate(sources)
        ]
    if not splits:
        raise InputError(f"{file}: names no sources; its keys are {', '.join(SPLITS)} and group_size")
    return DataOptions(splits, size)


def _source(source: Any, split: str, base: Path, where: str) -> SourceOptions:
    _check_keys(source, (*PATHS, *SELECTION), where)
    for key in PATHS:
        if key in source and not (isinstance(source[key], str) and source[key]):
            raise InputError(f"{where}: {key}: must be a path, got {source[key]!r}")
    paths: dict[str, Path] = {}
    for key, usual in (("corpus", "corpus.jsonl"), ("queries", "queries.jsonl"), ("qrels", f"qrels/{split}.tsv")):
        if key in source:
            paths[key] = base / source[key]
        elif "folder" in source:
            paths[key] = base / source["folder"] / usual
        else:
            raise InputError(f"{where}: {key}: is missing, and so is folder")
    if all(key in source for key in PATHS):
        raise InputError(f"{where}: folder: of no use beside corpus, queries and qrels")
    return SourceOptions(**paths, selection=_selection(source, where))


def _selection(source: dict[str, Any], where: str) -> Selection:
    for key in ("min_score", "max_score"):
        if key in source and not _is_number(source[key]):
            raise InputError(f"{where}: {key}: must be a number, got {source[key]!r}")
    if source.get("min_score", -math.inf) >= source.get("max_score", math.inf):
        raise InputError(f"{where}: max_score: must be above min_score; no score lies in between")
    if "score_transform" in source:
        _check_transform(source["score_transform"], f"{where}: score_transform")
    if "group_random_k" in source:
        _check_count(source["group_random_k"], f"{where}: group_random_k")
    return Selection(**{key: source[key] for key in SELECTION if key in source})


def _check_transform(transform: Transform, where: str) -> None:
    if isinstance(transform, str) and transform in (*ROUNDINGS, REAL):
        return
    if isinstance(transform, dict) and transform:
        grades = [*transform.values()]
        fine = all(_is_number(number) for number in [*transform, *grades])
    else:
        grades = [transform]
        fine = _is_number(transform)
    if not fine:
        raise InputError(
            f"{where}: must be a number, a mapping of scores to grades, {', '.join(ROUNDINGS)} or {REAL}, "
            f"got {transform!r}"
        )
    if min(grades) < 0:
        raise InputError(f"{where}: a grade must be at least 0, got {min(grades)}")


def _check_keys(content: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(content, dict):
        raise InputError(f"{where}: must be a mapping, got {content!r}")
    for key in content:
        if key not in known:
            raise InputError(f"{where}: {key}: no such key; there are {', '.join(known)}")


def _check_count(value: Any, where: str) -> None:
    if type(value) is not int or value < 1:
        raise InputError(f"{where}: must be an integer of at least 1, got {value!r}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # bool is an int too


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that comes twice: PyYAML keeps the last and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} comes twice", node.value[place][0].start_mark
                )
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(file: Path) -> Any:
    """What a YAML file holds, plain data alone.

    Raises:
        InputError: it cannot be read, or a key comes twice.
    """
    try:
        # A subclass of SafeLoader: no tag makes a Python object.
        return yaml.load(file.read_text(encoding="utf-8"), _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f"{error.problem_mark.line + 1}: " if error.problem_mark else " "
        raise InputError(f"{file}:{line}not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not YAML: {first_line(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
