"""A graded retrieval collection: a folder in the BEIR layout, or a YAML file that joins several sources.

corpus.jsonl       {"_id": "p1", "title": "…", "text": "…"}    the title may be absent or empty
queries.jsonl      {"_id": "q1", "text": "…"}
qrels/SPLIT.tsv    query-id<TAB>corpus-id<TAB>score            first line: exactly these three names

The YAML is described in `sources.py`. Texts stay in their files (`texts.py`), judgements are memory-mapped if they are
many (`judgements.py`); a broken file is refused with one line that names file and line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.errors import InputError
from training.judgements import Judgements, Source
from training.sources import SourceOptions, read_sources
from training.texts import Texts

Qrels = Mapping[str, Mapping[str, float]]
"""query id → passage id → grade"""


@dataclass(frozen=True)
class Collection:
    corpus: Mapping[str, str]  # what is searched: passage id → title and text
    queries: Mapping[str, str]  # query id → text, of all splits
    qrels: dict[str, Judgements]  # split → its judgements, of the splits asked for
    group_size: int | None = None  # passages a query, where the YAML says it

    def highest_grade(self) -> int:
        """The highest grade of any passage in the splits read; 0 where grades are real numbers."""
        return max(judged.highest_grade() for judged in self.qrels.values())


def read_collection(data: Path, splits: Sequence[str]) -> Collection:
    """Read corpus, queries and the judgements of `splits` from a folder, or from what a YAML file names.

    Of a folder every qrels file is read, also those not asked for: only so is it known which query has no passages. Of
    a YAML's sources, queries without passages are not used. There, a split that is searched (any but "train") has one
    corpus; `corpus` and `queries` are those of the last of `splits`.

    Raises:
        InputError: a missing or broken file (see `Texts` and `Source`), a key that the YAML may not have, a query of
            a folder that no judgement names.
    """
    yaml = data.is_file() or data.suffix in (".yaml", ".yml")
    return _read_yaml(data, splits) if yaml else _read_folder(data, splits)


def _read_folder(folder: Path, splits: Sequence[str]) -> Collection:
    corpus = Texts(folder / "corpus.jsonl")
    queries = Texts(folder / "queries.jsonl", queries=True)
    files = {split: folder / "qrels" / f"{split}.tsv" for split in splits}
    for path in sorted((folder / "qrels").glob("*.tsv")):
        files.setdefault(path.stem, path)
    sources = {split: Source(corpus, queries, path) for split, path in files.items()}
    unjudged = np.ones(len(queries), np.bool_)
    for source in sources.values():
        unjudged[source.query_positions()] = False
    if unjudged.any():
        position = int(unjudged.argmax())
        query = queries.id_at(position)
        raise InputError(f"{queries.path}:{position + 1}: query {query!r} has no passages in any qrels file")
    return Collection(corpus, queries, {split: Judgements([sources[split]]) for split in splits})


def _read_yaml(file: Path, splits: Sequence[str]) -> Collection:
    options = read_sources(file)
    opened: dict[tuple[Path, bool], Texts] = {}  # a file that several sources name is opened once

    def texts(path: Path, queries: bool) -> Texts:
        key = (path.resolve(), queries)
        if key not in opened:
            opened[key] = Texts(path, queries)
        return opened[key]

    def judged(split: str) -> Judgements:
        if split not in options.splits:
            raise InputError(f"{file}: has no {split!r}, which is needed here")
        named: Sequence[SourceOptions] = options.splits[split]
        judgements = Judgements(
            [Source(texts(one.corpus, False), texts(one.queries, True), one.qrels, one.selection) for one in named]
        )
        if split != "train" and len(judgements.corpora) > 1:
            raise InputError(f"{file}: the sources of {split!r} must share one corpus: it is searched as a whole")
        if split != "train" and judgements.real:
            raise InputError(f"{file}: the grades of {split!r} must be integers: trec_eval measures no others")
        return judgements

    qrels = {split: judged(split) for split in splits}
    searched = qrels[splits[-1]].sources[0]
    return Collection(searched.corpus, searched.queries, qrels, options.group_size)
