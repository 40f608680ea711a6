"""The measures against figures computed by hand, and rankings of the full corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log2
from pathlib import Path

import pytest

from training.data import read_collection
from training.encoder import BiEncoder
from training.errors import InputError
from training.evaluate import evaluate, measure, rank

QRELS = {"a": {"p3": 3, "p2": 2, "p1": 1, "p0": 0}, "b": {"p2": 2, "p9": 1}}
RANKINGS = {"a": ["x", "p1", "p3", "p0", "p2"], "b": ["p9", *(f"x{i}" for i in range(10)), "p2"]}


def test_ndcg_uses_grades_as_linear_gains() -> None:
    ideal_a = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    got_a = 1 / log2(3) + 3 / log2(4) + 2 / log2(6)
    ideal_b = 2 / log2(2) + 1 / log2(3)
    got_b = 1 / log2(2)  # p2 stands on rank 12, beyond the cut-off
    quality = measure(RANKINGS, QRELS)
    assert quality.ndcg_of_query["a"] == pytest.approx(got_a / ideal_a)
    assert quality.ndcg_of_query["b"] == pytest.approx(got_b / ideal_b)
    assert quality.ndcg_at_10 == pytest.approx((got_a / ideal_a + got_b / ideal_b) / 2)


def test_mrr_counts_the_first_relevant_passage_of_the_best_ten() -> None:
    assert measure(RANKINGS, QRELS, relevant_grade=2).mrr_at_10 == pytest.approx((1 / 3 + 0) / 2)
    assert measure(RANKINGS, QRELS, relevant_grade=1).mrr_at_10 == pytest.approx((1 / 2 + 1) / 2)
    assert measure(RANKINGS, QRELS, relevant_grade=3).mrr_at_10 == pytest.approx((1 / 3 + 0) / 2)


def test_recall_counts_relevant_passages_of_the_best_hundred() -> None:
    rankings = {"a": ["p3", *(f"x{i}" for i in range(99)), "p2"], "b": RANKINGS["b"]}  # p2 stands on rank 101
    assert measure(rankings, QRELS, relevant_grade=2).recall_at_100 == pytest.approx((1 / 2 + 1) / 2)
    assert measure(rankings, QRELS, relevant_grade=1).recall_at_100 == pytest.approx((1 / 3 + 1) / 2)


def test_equal_scores_keep_the_order_of_the_ranking() -> None:
    """trec_eval alone would order ties by id."""
    for ranking in (["p3", "p2"], ["p2", "p3"]):
        quality = measure({"a": ranking}, {"a": {"p3": 3, "p2": 0}})
        assert quality.mrr_at_10 == 1 / (1 + ranking.index("p3"))


def test_a_relevant_grade_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match="relevant grade"):
        measure(RANKINGS, QRELS, relevant_grade=0)


def test_the_whole_corpus_is_ranked(collection_folder: Path, tiny_encoder: Callable[..., BiEncoder]) -> None:
    collection = read_collection(collection_folder, ["train", "test"])
    encoder = tiny_encoder()
    ranking = rank(encoder, collection, ["q9", "q8"], batch_size=1)
    assert list(ranking) == ["q9", "q8"]
    scores = encoder.encode([collection.queries["q8"]]) @ encoder.encode(list(collection.corpus.values())).T
    best_first = scores[0].argsort(descending=True).tolist()
    assert ranking["q8"] == [list(collection.corpus)[i] for i in best_first]


def test_a_passages_own_text_finds_it(collection_folder: Path, tiny_encoder: Callable[..., BiEncoder]) -> None:
    collection = read_collection(collection_folder, ["test"])
    queries = dict(collection.queries)
    for query, judged in collection.qrels["test"].items():
        best = max(judged, key=lambda passage: judged[passage])
        queries[query] = collection.corpus[best]
    quality = evaluate(tiny_encoder(), replace(collection, queries=queries), "test")
    assert quality.mrr_at_10 == 1.0
    assert quality.recall_at_100 == 1.0  # 48 passages in all
