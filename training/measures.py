"""What a ranking is worth, by trec_eval's own code: nDCG, MAP, MRR, recall and precision.

nDCG uses the grades themselves as gains (linear, as trec_eval does, not 2^grade − 1). All others know only relevant and
not: relevant is a grade of at least `relevant_grade`. Means are over every query of the split; a query without a
relevant passage, or without a ranking, counts as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import pytrec_eval

from training.data import Qrels
from training.errors import InputError

RELEVANT_GRADE = 2
DEPTH = 1000  # of a ranking: as deep as trec_eval looks unless told, and as the deepest measure, recall@1000
MRR_DEPTH = 10
MAIN = "ndcg@10"  # what models are compared by

_NAMES = {
    **{f"ndcg_cut_{k}": f"ndcg@{k}" for k in (1, 3, 5, 10, 100)},
    "map": "map",
    "recip_rank": "mrr",
    **{f"recall_{k}": f"recall@{k}" for k in (10, 100, 1000)},
    **{f"P_{k}": f"p@{k}" for k in (1, 3, 5, 10, 100)},
}
"""trec_eval's names → ours"""

MEASURES = (*_NAMES.values(), f"mrr@{MRR_DEPTH}")

_AT_ONCE = 1000  # queries: a ranking of 1000 as trec_eval wants it takes 100 kB


@dataclass(frozen=True)
class Quality:
    """The MEASURES of each query, 0 to 1, so that two models can be compared on the same queries."""

    of_query: dict[str, dict[str, float]]  # query id → measure → value

    def means(self) -> dict[str, float]:
        """measure → its mean over the queries."""
        return {measure: self.mean(measure) for measure in MEASURES}

    def mean(self, measure: str) -> float:
        return sum(values[measure] for values in self.of_query.values()) / len(self.of_query)

    def values(self, measure: str) -> dict[str, float]:
        """query id → the measure."""
        return {query: values[measure] for query, values in self.of_query.items()}

    @property
    def ndcg_of_query(self) -> dict[str, float]:
        return self.values(MAIN)

    @property
    def ndcg_at_10(self) -> float:
        return self.mean(MAIN)

    @property
    def mrr_at_10(self) -> float:
        return self.mean("mrr@10")

    @property
    def recall_at_100(self) -> float:
        return self.mean("recall@100")


def measure(rankings: Mapping[str, Sequence[str]], qrels: Qrels, relevant_grade: int = RELEVANT_GRADE) -> Quality:
    """The measures of rankings (best first, DEPTH count) against judgements; rankings of other queries are ignored.

    Raises:
        InputError: relevant_grade below 1, grades that are no integers.
    """
    check_relevant_grade(relevant_grade)
    queries = iter(qrels)
    of_query: dict[str, dict[str, float]] = {}
    while some := list(islice(queries, _AT_ONCE)):
        judged = {query: _integers(query, qrels[query]) for query in some}
        deep = _trec_eval(rankings, judged, relevant_grade, DEPTH, set(_NAMES))
        # trec_eval's reciprocal rank has no cut-off of its own: the ranking is cut instead.
        short = _trec_eval(rankings, judged, relevant_grade, MRR_DEPTH, {"recip_rank"})
        for query in some:
            named = {ours: deep[query][theirs] for theirs, ours in _NAMES.items()}
            of_query[query] = named | {f"mrr@{MRR_DEPTH}": short[query]["recip_rank"]}
    return Quality(of_query)


def main_measure(rankings: Mapping[str, Sequence[str]], qrels: Qrels) -> dict[str, float]:
    """nDCG@10 of each query, alone, from the first ten: for those who ask thousands of times."""
    judged = {query: _integers(query, grades) for query, grades in qrels.items()}
    found = _trec_eval(rankings, judged, RELEVANT_GRADE, 10, {"ndcg_cut_10"})
    return {query: values["ndcg_cut_10"] for query, values in found.items()}


def check_relevant_grade(relevant_grade: int) -> None:
    if relevant_grade < 1:
        raise InputError(f"the relevant grade must be at least 1, got {relevant_grade}: 0 is not relevant")


def _trec_eval(
    rankings: Mapping[str, Sequence[str]],
    judged: Mapping[str, Mapping[str, int]],
    relevant_grade: int,
    depth: int,
    measures: set[str],
) -> dict[str, dict[str, float]]:
    # Ranks in place of scores: trec_eval would reorder equal scores by id.
    run = {query: {ranked: -float(i) for i, ranked in enumerate(rankings.get(query, ())[:depth])} for query in judged}
    evaluator = pytrec_eval.RelevanceEvaluator(judged, measures, relevance_level=relevant_grade)
    values: dict[str, dict[str, float]] = evaluator.evaluate(run)
    return values


def _integers(query: str, grades: Mapping[str, float]) -> dict[str, int]:
    integers = {passage: int(grade) for passage, grade in grades.items()}
    if integers != grades:
        raise InputError(f"query {query!r}: trec_eval measures integer grades, got {sorted(grades.values())}")
    return integers
