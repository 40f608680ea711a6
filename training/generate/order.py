"""The level-order check: does an encoder's score fall from the best level to the worst?

Scores are the encoder's own, inner products of query and passage. A context is in order if the mean score of each level
is above the next lower one's. That an encoder disagrees does not prove the levels wrong (the data is there to teach it
something); a share of contexts in order that is near chance, 1 in 24 for four levels, does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from statistics import fmean

from training.encoder import BiEncoder
from training.generate.context import RankingContext

Scores = tuple[float, ...]
"""One a passage of a context, in its order."""


def score(encoder: BiEncoder, contexts: Sequence[RankingContext], batch_size: int = 32) -> list[Scores]:
    """The passages' scores, a context at a time, embedded all together."""
    queries = encoder.encode([context.query for context in contexts], batch_size)  # [Q, d]
    texts = [passage.text for context in contexts for passage in context.passages]
    passages = encoder.encode(texts, batch_size)  # [sum of sizes, d]
    sizes = [len(context.passages) for context in contexts]
    own = passages.split(sizes)
    return [tuple((rows @ query).tolist()) for query, rows in zip(queries, own, strict=True)]


def level_means(context: RankingContext, scores: Scores) -> dict[int, float]:
    """grade → mean score of its passages, best grade first."""
    by_grade: dict[int, list[float]] = {}
    for passage, value in zip(context.passages, scores, strict=True):
        by_grade.setdefault(passage.grade, []).append(value)
    return {grade: fmean(by_grade[grade]) for grade in sorted(by_grade, reverse=True)}


def in_order(context: RankingContext, scores: Scores) -> bool:
    """Whether each level's mean score is above the next lower level's."""
    return all(better > worse for better, worse in pairwise(level_means(context, scores).values()))


def pairs_in_order(context: RankingContext, scores: Scores) -> tuple[int, int]:
    """Of the pairs of passages with different grades: how many are scored in order, and how many there are."""
    graded = [(passage.grade, value) for passage, value in zip(context.passages, scores, strict=True)]
    signs = [(a[0] - b[0]) * (a[1] - b[1]) for a, b in combinations(graded, 2) if a[0] != b[0]]
    return sum(sign > 0 for sign in signs), len(signs)
