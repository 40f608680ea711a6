"""Retrieval quality on the full corpus: nDCG@10, MRR@10 and Recall@100, as trec_eval defines them.

    python -m training.evaluate --data DIR --model DIR

nDCG@10 uses the grades themselves as gains (linear, as trec_eval does, not 2^grade − 1). MRR@10 and
Recall@100 know only relevant and not: relevant is a grade of at least --relevant-grade, 2 unless told. All
are means over every query of the split; a query without a relevant passage counts as 0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytrec_eval
import torch

from training.cli import OneLineErrors, add_encoder_options, encoder_from, exit_status
from training.data import Collection, Qrels, read_collection
from training.encoder import BiEncoder
from training.errors import InputError

RELEVANT_GRADE = 2
DEPTH = 100  # of the ranking: as deep as the deepest measure, Recall@100


@dataclass(frozen=True)
class Quality:
    """Means over the queries, 0 to 1, and nDCG@10 a query, for comparing two models on the same queries."""

    ndcg_at_10: float
    mrr_at_10: float
    recall_at_100: float
    ndcg_of_query: dict[str, float]

    def means(self) -> dict[str, float]:
        return {"ndcg@10": self.ndcg_at_10, "mrr@10": self.mrr_at_10, "recall@100": self.recall_at_100}


def evaluate(
    encoder: BiEncoder,
    collection: Collection,
    split: str,
    relevant_grade: int = RELEVANT_GRADE,
    batch_size: int = 32,
    progress: str | None = None,
) -> Quality:
    """Rank the whole corpus for each query of the split by inner product, and measure.

    `progress` names a progress bar; None shows none.

    Raises:
        InputError: relevant_grade below 1.
    """
    _check(relevant_grade)  # before the corpus is embedded, which may take hours
    qrels = collection.qrels[split]
    return measure(rank(encoder, collection, list(qrels), batch_size, progress), qrels, relevant_grade)


def rank(
    encoder: BiEncoder,
    collection: Collection,
    queries: Sequence[str],
    batch_size: int,
    progress: str | None = None,
) -> dict[str, list[str]]:
    """query id → the ids of its DEPTH best passages, best first."""
    ids = list(collection.corpus)
    passages = encoder.encode(list(collection.corpus.values()), batch_size, progress)  # [N, d]
    embedded = encoder.encode([collection.queries[query] for query in queries], batch_size)  # [Q, d]
    best: dict[str, list[str]] = {}
    for start in range(0, len(queries), batch_size):  # [batch, N] scores at a time: N may be millions
        scores = embedded[start : start + batch_size] @ passages.T
        top = torch.topk(scores, min(DEPTH, len(ids)), dim=1).indices.tolist()
        for query, row in zip(queries[start : start + batch_size], top, strict=True):
            best[query] = [ids[i] for i in row]
    return best


def measure(rankings: Mapping[str, Sequence[str]], qrels: Qrels, relevant_grade: int = RELEVANT_GRADE) -> Quality:
    """The measures of rankings (best first) against judgements; every query of `qrels` must be ranked.

    Raises:
        InputError: relevant_grade below 1.
    """
    _check(relevant_grade)
    deep = _trec_eval(rankings, qrels, relevant_grade, DEPTH, ("ndcg_cut_10", "recall_100"))
    # trec_eval's reciprocal rank has no cut-off of its own: the ranking is cut instead.
    short = _trec_eval(rankings, qrels, relevant_grade, 10, ("recip_rank",))
    return Quality(
        ndcg_at_10=_mean([of_query["ndcg_cut_10"] for of_query in deep.values()]),
        mrr_at_10=_mean([of_query["recip_rank"] for of_query in short.values()]),
        recall_at_100=_mean([of_query["recall_100"] for of_query in deep.values()]),
        ndcg_of_query={query: of_query["ndcg_cut_10"] for query, of_query in deep.items()},
    )


def _check(relevant_grade: int) -> None:
    if relevant_grade < 1:
        raise InputError(f"the relevant grade must be at least 1, got {relevant_grade}: 0 is not relevant")


def _trec_eval(
    rankings: Mapping[str, Sequence[str]],
    qrels: Qrels,
    relevant_grade: int,
    depth: int,
    measures: Sequence[str],
) -> dict[str, dict[str, float]]:
    # Ranks in place of scores: trec_eval would reorder equal scores by id.
    judged = {query: _integers(query, grades) for query, grades in qrels.items()}
    run = {query: {ranked: -float(i) for i, ranked in enumerate(rankings[query][:depth])} for query in judged}
    evaluator = pytrec_eval.RelevanceEvaluator(judged, set(measures), relevance_level=relevant_grade)
    values: dict[str, dict[str, float]] = evaluator.evaluate(run)
    return values


def _integers(query: str, grades: Mapping[str, float]) -> dict[str, int]:
    integers = {passage: int(grade) for passage, grade in grades.items()}
    if integers != grades:
        raise InputError(f"query {query!r}: trec_eval measures integer grades, got {sorted(grades.values())}")
    return integers


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: prints the measures as one JSON object. Returns the exit status."""
    parser = OneLineErrors(prog="training.evaluate", description="nDCG@10, MRR@10 and Recall@100 on a full corpus")
    parser.add_argument("--data", type=Path, required=True, help="folder in the BEIR layout")
    add_encoder_options(parser)
    parser.add_argument("--split", default="test", help="which qrels file (default: %(default)s)")
    parser.add_argument("--relevant-grade", type=int, default=RELEVANT_GRADE, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="texts embedded at once (default: %(default)s)")
    options = parser.parse_args(arguments)

    def command() -> None:
        collection = read_collection(options.data, [options.split])
        encoder = encoder_from(options).to("cuda" if torch.cuda.is_available() else "cpu")
        bar = "embedding the corpus"
        quality = evaluate(encoder, collection, options.split, options.relevant_grade, options.batch_size, bar)
        print(json.dumps({"split": options.split, "queries": len(quality.ndcg_of_query)} | quality.means()))

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
