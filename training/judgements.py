"""Judged passages of queries, from one qrels file or several, each with its own texts, filter and transform.

    query-id<TAB>corpus-id<TAB>score      first line: exactly these three names

`Source` is one qrels file over a corpus and queries; `Judgements` joins sources. Both know a query by its place and a
passage by its position, so that ids and texts are read only for what is drawn.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import InputError
from training.index import Arrays, cached, small
from training.lines import numbered_lines
from training.texts import Positions, Texts

HEADER = "query-id\tcorpus-id\tscore"
REAL = "real"  # score_transform: the scores themselves are the grades, real numbers
ROUNDINGS = {"floor": np.floor, "ceil": np.ceil}

CHUNK = 1 << 20  # scores looked at together: bounds what is made of them at a time
LINES = 1 << 14  # judgements looked up together: enough that NumPy's calls cost nothing

Transform = float | str | Mapping[float, float] | None
Scores = NDArray[np.float64]

Handle = tuple[int, int]
"""A passage: which corpus of Judgements.corpora, and its position there."""


@dataclass(frozen=True)
class Selection:
    """Which of a source's judgements count, and as what.

    Args:
        min_score, max_score: only scores in [min_score, max_score) count, as they are in the file.
        score_transform: makes grades of scores. A number: all have this grade. A mapping: score → grade. "floor" or
            "ceil": rounded. "real": the score itself, a real number. None: the score itself, an integer ≥ 0.
        group_random_k: of a query's passages this many are drawn, anew each epoch, before a group is.
    """

    min_score: float | None = None
    max_score: float | None = None
    score_transform: Transform = None
    group_random_k: int | None = None

    @property
    def real(self) -> bool:
        """Whether grades are real numbers and not integers."""
        transform = self.score_transform
        if isinstance(transform, Mapping):
            return any(grade != int(grade) for grade in transform.values())
        if isinstance(transform, str) or transform is None:
            return transform == REAL
        return transform != int(transform)

    def counts(self, scores: Scores) -> NDArray[np.bool_]:
        """Which scores count."""
        counts = np.ones(len(scores), np.bool_)
        if self.min_score is not None:
            counts &= scores >= self.min_score
        if self.max_score is not None:
            counts &= scores < self.max_score
        return counts

    def grades(self, scores: Scores) -> Scores:
        """Scores that count → grades; NaN where there is none."""
        transform = self.score_transform
        if transform is None:
            return np.where((scores >= 0) & (scores == np.floor(scores)), scores, np.nan)
        if isinstance(transform, str):
            rounded = scores if transform == REAL else ROUNDINGS[transform](scores)
            return rounded if transform == REAL else np.where(rounded >= 0, rounded, np.nan)
        if isinstance(transform, Mapping):
            grades = np.full(len(scores), np.nan)
            for score, grade in transform.items():
                grades[scores == score] = grade
            return grades
        return np.full(len(scores), float(transform))


EVERYTHING = Selection()


class Source:
    """The judgements of one qrels file that a selection leaves, a row a query.

    Raises:
        InputError: a broken line, a judgement naming an unknown query or passage or made twice, a score without a
            grade, no judgement at all. The message is `file:line: what is wrong`.
    """

    def __init__(self, corpus: Texts, queries: Texts, path: Path, selection: Selection = EVERYTHING) -> None:
        self.corpus = corpus
        self.queries = queries
        self.path = path
        self.selection = selection
        arrays = cached("qrels", [path, corpus.path, queries.path], lambda: _index(path, corpus, queries))
        self._queries: Positions = arrays["queries"]  # [R], the rows' positions in `queries`
        self._starts: NDArray[np.int64] = arrays["starts"]  # [R + 1]
        self._passages: Positions = arrays["passages"]  # [M], positions in `corpus`
        self._scores: Scores = arrays["scores"]  # [M]
        self.highest_grade, kept = self._look_through()
        self.rows: NDArray[np.intp] = np.flatnonzero(kept)  # that have a passage left
        if not len(self.rows):
            raise InputError(
                f"{path}: no score is in the range of min_score {selection.min_score}, max_score {selection.max_score}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return (Source, (self.corpus, self.queries, self.path, self.selection))

    def query_positions(self) -> Positions:
        """Of the rows that have a passage left."""
        return self._queries[self.rows]

    def query_of(self, row: int) -> int:
        return int(self._queries[row])

    def row_of_query(self) -> Positions:
        """By position in `queries`: the row, −1 for a query without passages left."""
        rows = np.full(len(self.queries), -1, np.int64)
        rows[self.query_positions()] = self.rows
        return small(rows, len(self._queries))

    def passages(self, row: int) -> list[tuple[int, float]]:
        """(position, grade) of what a row has left, in the file's order."""
        start, end = self._starts[row : row + 2].tolist()
        scores = np.asarray(self._scores[start:end])
        counts = self.selection.counts(scores)
        grades = self.selection.grades(scores[counts]).tolist()
        positions = self._passages[start:end][counts].tolist()
        if not self.selection.real:
            grades = [int(grade) for grade in grades]
        return list(zip(positions, grades, strict=True))

    def _look_through(self) -> tuple[float, NDArray[np.bool_]]:
        """The highest grade, and which rows have a passage left; every score that counts must have a grade."""
        highest, kept = -math.inf, np.zeros(len(self._queries), np.bool_)
        for start in range(0, len(self._scores), CHUNK):
            scores = np.asarray(self._scores[start : start + CHUNK])
            counted = np.flatnonzero(self.selection.counts(scores))
            grades = self.selection.grades(scores[counted])
            if np.isnan(grades).any():
                self._refuse(scores[counted[np.isnan(grades)]])
            highest = max(highest, grades.max(initial=-math.inf))
            kept[np.searchsorted(self._starts, start + counted, side="right") - 1] = True
        return highest, kept

    def _refuse(self, scores: Scores) -> None:
        bad = set(scores.tolist())
        for number, line in numbered_lines(self.path):
            text = line.rpartition("\t")[2]
            if number > 1 and float(text) in bad:
                if self.selection.score_transform is None:
                    raise InputError(f"{self.path}:{number}: the grade must be an integer >= 0, got {text!r}")
                raise InputError(f"{self.path}:{number}: score_transform gives no grade >= 0 for the score {text!r}")


class Judgements(Mapping[str, dict[str, float]]):
    """query id → passage id → grade, the sources' judgements together; for training, by place.

    Queries of one id are one query. A passage that several sources judge for it (the same id of the same corpus file)
    has the grade of the first: a positive that comes before mined negatives is never one. Grades are integers, or, if
    any source's are real numbers, floats.

    As a mapping it holds every passage that counts, whatever group_random_k.

    Raises:
        InputError: two sources have a query of the same id and different text.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self.real = any(source.selection.real for source in sources)
        # By identity: as mappings, texts would be compared one by one.
        corpora = {id(source.corpus): source.corpus for source in sources}
        self.corpora = tuple(corpora.values())
        self._corpus_of = [list(corpora).index(id(source.corpus)) for source in sources]
        self._rows = self._joined()  # [n, sources], −1 where a source has nothing

    def __reduce__(self) -> tuple[Any, ...]:
        return (Judgements, (self.sources,))

    def highest_grade(self) -> int:
        """0 where grades are real numbers: those have no levels."""
        return 0 if self.real else int(self.highest())

    def highest(self) -> float:
        """The highest grade, a real number or not."""
        return max(source.highest_grade for source in self.sources)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return map(self.query_id, range(len(self)))

    def __getitem__(self, query: str) -> dict[str, float]:
        rows = []
        for source, row_of in zip(self.sources, self._row_of_query, strict=True):
            position = source.queries.find(query)
            rows.append(-1 if position is None else int(row_of[position]))
        if max(rows) < 0:
            raise KeyError(query)
        return {self.passage_id(handle): grade for handle, grade in self._candidates(rows, None).items()}

    def query_id(self, place: int) -> str:
        source, position = self._query(place)
        return source.queries.id_at(position)

    def query(self, place: int) -> str:
        """The text of the query at a place, 0 ≤ place < len."""
        source, position = self._query(place)
        return source.queries.at(position)

    def passages(self, place: int, rng: random.Random | None = None) -> dict[Handle, float]:
        """The passages of the query at a place and their grades; with `rng`, after group_random_k."""
        return self._candidates(self._rows[place].tolist(), rng)

    def passage(self, handle: Handle) -> str:
        corpus, position = handle
        return self.corpora[corpus].at(position)

    def passage_id(self, handle: Handle) -> str:
        corpus, position = handle
        return self.corpora[corpus].id_at(position)

    @cached_property
    def _row_of_query(self) -> Sequence[Positions]:
        return [source.row_of_query() for source in self.sources]

    def _query(self, place: int) -> tuple[Source, int]:
        rows = self._rows[place].tolist()
        number = next(number for number, row in enumerate(rows) if row >= 0)
        return self.sources[number], self.sources[number].query_of(rows[number])

    def _candidates(self, rows: Sequence[int], rng: random.Random | None) -> dict[Handle, float]:
        found: dict[Handle, float] = {}
        judged: set[Handle] = set()  # also what is not drawn: a positive left out this time is still no negative
        for source, corpus, row in zip(self.sources, self._corpus_of, rows, strict=True):
            if row < 0:
                continue
            new = [((corpus, position), grade) for position, grade in source.passages(row)]
            new = [(handle, grade) for handle, grade in new if handle not in judged]
            judged.update(handle for handle, _ in new)
            most = source.selection.group_random_k
            if rng is not None and most is not None and len(new) > most:
                new = rng.sample(new, most)
            found.update(new)
        return {handle: float(grade) for handle, grade in found.items()} if self.real else found

    def _joined(self) -> Positions:
        """Each query's row in each source; queries in the order in which the sources bring them."""
        numbers = self._query_numbers()
        place_of = np.full(1 + max(int(of_source.max()) for of_source in numbers), -1, np.int32)
        count = 0
        for of_source in numbers:
            new = of_source[place_of[of_source] < 0]
            place_of[new] = np.arange(count, count + len(new))
            count += len(new)
        joined = np.full((count, len(self.sources)), -1, np.int32)
        for column, (source, of_source) in enumerate(zip(self.sources, numbers, strict=True)):
            joined[place_of[of_source], column] = source.rows
        return joined

    def _query_numbers(self) -> Sequence[Positions]:
        """For each source, of its rows: a number that stands for the query's id, the same in all sources."""
        if len({id(source.queries) for source in self.sources}) == 1:
            return [source.query_positions() for source in self.sources]
        prints = [source.queries.prints()[source.query_positions()] for source in self.sources]
        self._refuse_other_texts(prints)
        _, numbers = np.unique(np.concatenate(prints), return_inverse=True)
        return np.split(numbers, np.cumsum([len(of_source) for of_source in prints])[:-1])

    def _refuse_other_texts(self, prints: Sequence[NDArray[np.uint64]]) -> None:
        for number, source in enumerate(self.sources):
            for other_number, other in enumerate(self.sources[:number]):
                if source.queries is other.queries:
                    continue
                _, in_mine, in_theirs = np.intersect1d(
                    prints[number], prints[other_number], assume_unique=True, return_indices=True
                )
                mine, theirs = source.query_positions()[in_mine], other.query_positions()[in_theirs]
                assert source.queries.digests is not None
                assert other.queries.digests is not None
                differ = np.flatnonzero(source.queries.digests[mine] != other.queries.digests[theirs])
                if len(differ):
                    position = int(mine[differ[0]])
                    query, where = source.queries.id_at(position), f"{source.queries.path}:{position + 1}"
                    raise InputError(f"{where}: query {query!r} is another text in {other.queries.path}")


def _index(path: Path, corpus: Texts, queries: Texts) -> Arrays:
    query_of, passage_of = array("q"), array("q")
    scores = array("d")
    lines = numbered_lines(path)
    _, header = next(lines, (1, ""))
    if header != HEADER:
        raise InputError(f"{path}:1: the header must be {HEADER!r}, got {header!r}")
    while chunk := list(islice(lines, LINES)):
        fields = [_fields(line, path, number) for number, line in chunk]
        ids = ([query for query, _, _ in fields], [passage for _, passage, _ in fields])
        for kind, texts, named, found in (
            ("query", queries, ids[0], query_of),
            ("passage", corpus, ids[1], passage_of),
        ):
            positions = texts.positions(named)
            if len(unknown := np.flatnonzero(positions < 0)):
                place = int(unknown[0])
                raise InputError(f"{path}:{chunk[place][0]}: unknown {kind} {named[place]!r}, not in {texts.path.name}")
            found.frombytes(positions.tobytes())
        scores.extend(score for _, _, score in fields)
    if not scores:
        raise InputError(f"{path}: no judgements")
    # Half the size, and the larger forms are let go: what follows needs the memory.
    rows = small(np.frombuffer(query_of, np.int64), len(queries))
    del query_of
    columns = small(np.frombuffer(passage_of, np.int64), len(corpus))
    del passage_of
    _refuse_repeated(rows, columns, path, corpus, queries)
    judged, starts, order = _by_query(rows, len(queries))
    del rows
    return {"queries": judged, "starts": starts, "passages": columns[order], "scores": np.frombuffer(scores)[order]}


def _fields(line: str, path: Path, number: int) -> tuple[str, str, float]:
    fields = line.split("\t")
    if len(fields) != 3:
        raise InputError(f"{path}:{number}: expected 3 fields separated by tabs, got {len(fields)}")
    try:
        score = float(fields[2])
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{path}:{number}: the grade must be a number, got {fields[2]!r}")
    return fields[0], fields[1], score


def _refuse_repeated(query_of: Positions, passage_of: Positions, path: Path, corpus: Texts, queries: Texts) -> None:
    pairs = query_of.astype(np.int64)
    pairs *= len(corpus)
    pairs += passage_of
    pairs.sort()
    repeated = pairs[1:][pairs[1:] == pairs[:-1]]
    if not len(repeated):
        return
    # The second place of each such pair, and of these the first line.
    pairs = query_of * np.int64(len(corpus)) + passage_of
    places = np.flatnonzero(np.isin(pairs, repeated))
    _, first = np.unique(pairs[places], return_index=True)
    place = int(np.delete(places, first)[0])
    query, passage = queries.id_at(int(query_of[place])), corpus.id_at(int(passage_of[place]))
    raise InputError(f"{path}:{place + 2}: passage {passage!r} is judged twice for query {query!r}")


def _by_query(
    query_of: Positions,  # [M]
    queries: int,
) -> tuple[Positions, Positions, Positions]:
    """The queries that are judged, in the order in which the file brings them; where each one's judgements start among
    all, a query's behind one another; and the order [M] that puts them so."""
    count = len(query_of)
    first = small(np.full(queries, count), count)
    # Of values for one place the last stays: backwards, that is the first line.
    first[query_of[::-1]] = small(np.arange(count)[::-1], count)
    judged = np.flatnonzero(first < count)
    judged = judged[np.argsort(first[judged])]  # by appearance
    row_of = small(np.zeros(queries), queries)
    row_of[judged] = np.arange(len(judged))
    rows = row_of[query_of]
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows))])
    return small(judged, queries), starts, np.argsort(rows, kind="stable")
