"""What a review counts, in memory that does not grow with the number of contexts but for 64 bits a distinct word."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from training.generate.context import RankingContext
from training.generate.gates import Failures
from training.generate.near_duplicates import normal_form
from training.generate.order import Scores, in_order, pairs_in_order

SAMPLE = 10_000  # values kept of each quantity: a quantile of so many is off by about one hundredth of the mass


class Sample:
    """An even sample of at most SAMPLE values of a stream (Vitter's reservoir); the same stream gives the same."""

    def __init__(self) -> None:
        self.count = 0
        self.values: list[float] = []
        self._random = random.Random(0)

    def add(self, value: float) -> None:
        self.count += 1
        if len(self.values) < SAMPLE:
            self.values.append(value)
        elif (place := self._random.randrange(self.count)) < SAMPLE:
            self.values[place] = value

    def quantile(self, share: float) -> float:
        """The value below which `share` of the sample lies."""
        ordered = sorted(self.values)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    def mean(self) -> float:
        return sum(self.values) / len(self.values)


@dataclass
class LevelStatistics:
    """Of one level's passages as they were generated."""

    words: Sample = field(default_factory=Sample)
    scores: Sample = field(default_factory=Sample)  # empty without an encoder
    query_words: Sample = field(default_factory=Sample)  # the share of the query's words that the passage has
    vocabulary: set[int] = field(default_factory=set)  # hashes of its words
    kept: int = 0


@dataclass
class GateStatistics:
    passages: int = 0  # that fail
    contexts: int = 0  # that have such a passage, or fail as a whole


@dataclass
class Statistics:
    contexts: int = 0
    passages: int = 0
    contexts_kept: int = 0
    ordered: int = 0  # contexts whose level means fall
    comparable: int = 0  # contexts with two levels or more
    pairs_ordered: int = 0
    pairs: int = 0
    levels: dict[int, LevelStatistics] = field(default_factory=dict)
    gates: dict[str, GateStatistics] = field(default_factory=dict)
    set_aside: Counter[str] = field(default_factory=Counter)

    @property
    def passages_kept(self) -> int:
        return sum(level.kept for level in self.levels.values())

    def add(self, context: RankingContext, scores: Scores | None) -> None:
        """Count a context as it was generated."""
        self.contexts += 1
        self.passages += len(context.passages)
        query = set(normal_form(context.query).split())
        for passage in context.passages:
            level = self.levels.setdefault(passage.grade, LevelStatistics())
            words = normal_form(passage.text).split()
            level.words.add(len(words))
            level.vocabulary.update(map(hash, words))
            if query:
                level.query_words.add(len(query.intersection(words)) / len(query))
        if scores is not None:
            self._add_scores(context, scores)

    def _add_scores(self, context: RankingContext, scores: Scores) -> None:
        for passage, value in zip(context.passages, scores, strict=True):
            self.levels[passage.grade].scores.add(value)
        ordered, pairs = pairs_in_order(context, scores)
        self.pairs_ordered += ordered
        self.pairs += pairs
        if pairs:
            self.comparable += 1
            self.ordered += in_order(context, scores)

    def add_failures(self, gate: str, failures: Failures) -> None:
        """Count what a gate says of a context; every gate is to report every context, failing or not."""
        count = self.gates.setdefault(gate, GateStatistics())
        count.passages += len(failures)
        count.contexts += bool(failures)

    def add_kept(self, context: RankingContext) -> None:
        """Count a context, with the passages that are kept of it."""
        self.contexts_kept += 1
        for passage in context.passages:
            self.levels[passage.grade].kept += 1
