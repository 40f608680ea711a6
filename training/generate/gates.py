"""Quality gates: which passages of a generated ranking context are not fit for training.

A gate is a function of a context and gives the places of the passages that fail. It knows nothing of the other gates,
so each one's count means the same whichever are switched on. `Repeated` alone remembers: it compares with the contexts
before. Two more are no functions of single passages: the order of the levels, judged by an encoder (`order.py`), and
`one_level`, of what the others have left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

from training.fingerprint import fingerprint
from training.generate.context import Passage, RankingContext
from training.generate.near_duplicates import normal_form, shingles, similarity

Failures = frozenset[int]
"""Places in RankingContext.passages."""

LEAST_CHARACTERS = 20  # three or four words: below, a passage cannot answer anything
LEAST_QUERY_WORDS = 4  # three words in a row of a keyword query turn up in any honest answer
NEAR = 0.8  # of the Jaccard index: in the sample, one word changed in twenty leaves 0.86, two leave 0.75


def too_short(context: RankingContext, least: int = LEAST_CHARACTERS) -> Failures:
    """Passages of fewer than `least` characters, punctuation not counted."""
    return _places(context, lambda passage: len(normal_form(passage.text)) < least)


def quotes_query(context: RankingContext, least_words: int = LEAST_QUERY_WORDS) -> Failures:
    """Passages that hold the query word for word: real ones seldom do, and the model would learn to look for it.

    A query of fewer than `least_words` words is not judged.
    """
    query = normal_form(context.query)
    if len(query.split()) < least_words:
        return frozenset()
    return _places(context, lambda passage: f" {query} " in f" {normal_form(passage.text)} ")


def duplicates(context: RankingContext) -> Failures:
    """Passages with the same words as another of the context.

    Of copies at one level the first is kept. Copies at several levels all fail: which grade is right, nobody knows.
    """
    normal = [normal_form(passage.text) for passage in context.passages]
    return _copies(context, lambda a, b: normal[a] == normal[b])


def near_duplicates(context: RankingContext, near: float = NEAR) -> Failures:
    """Passages nearly the same as another of the context, by the rule of `duplicates`; exact ones are left to that."""
    normal = [normal_form(passage.text) for passage in context.passages]
    pieces = [shingles(text) for text in normal]
    return _copies(context, lambda a, b: normal[a] != normal[b] and similarity(pieces[a], pieces[b]) >= near)


@dataclass
class Repeated:
    """Passages with the same words as one of an earlier context: a model's stock phrases. The first is kept.

    Keeps 64 bits a passage seen, about 100 bytes in a set of Python's.
    """

    _seen: set[int] = field(default_factory=set)

    def __call__(self, context: RankingContext) -> Failures:
        prints = [fingerprint(normal_form(passage.text)) for passage in context.passages]
        failures = frozenset(place for place, value in enumerate(prints) if value in self._seen)
        self._seen.update(prints)
        return failures


def one_level(context: RankingContext) -> bool:
    """Whether all passages have one grade, or there is none: such a context ranks nothing."""
    return len({passage.grade for passage in context.passages}) < 2


def passage_gates() -> dict[str, Callable[[RankingContext], Failures]]:
    """The gates on passages by the names that the command and the report use, with nothing seen yet."""
    return {
        "short": too_short,
        "quote": quotes_query,
        "duplicate": duplicates,
        "near-duplicate": near_duplicates,
        "repeated": Repeated(),
    }


def without(context: RankingContext, failures: Failures) -> RankingContext:
    """The context less the passages at these places."""
    kept = tuple(passage for place, passage in enumerate(context.passages) if place not in failures)
    return RankingContext(context.query_id, context.query, kept)


def _places(context: RankingContext, fails: Callable[[Passage], bool]) -> Failures:
    return frozenset(place for place, passage in enumerate(context.passages) if fails(passage))


def _copies(context: RankingContext, alike: Callable[[int, int], bool]) -> Failures:
    """`alike` compares two places."""
    failures: set[int] = set()
    for first, second in combinations(range(len(context.passages)), 2):
        if alike(first, second):
            same_grade = context.passages[first].grade == context.passages[second].grade
            failures |= {second} if same_grade else {first, second}
    return frozenset(failures)
