"""The measures against figures computed by hand, and rankings of the full corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log2
from pathlib import Path

import pytest

from training import measures
from training.data import read_collection
from training.encoder import BiEncoder
from training.errors import InputError
from training.evaluate import Search, evaluate, measure, retrieve
from training.measures import MEASURES

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


def test_every_measure_is_as_computed_by_hand() -> None:
    """Relevant from grade 2: for a, p3 on rank 3 and p2 on rank 5; for b, p2 on rank 12."""
    quality = measure(RANKINGS, QRELS, relevant_grade=2)
    assert tuple(quality.means()) == MEASURES
    of_a, of_b = quality.of_query["a"], quality.of_query["b"]
    assert of_a["map"] == pytest.approx((1 / 3 + 2 / 5) / 2)
    assert of_b["map"] == pytest.approx(1 / 12)
    assert of_b["mrr"] == pytest.approx(1 / 12)
    assert of_b["mrr@10"] == 0.0
    assert [of_a[f"p@{k}"] for k in (1, 3, 5, 10)] == pytest.approx([0, 1 / 3, 2 / 5, 2 / 10])
    assert (of_b["recall@10"], of_b["recall@100"], of_b["recall@1000"]) == (0.0, 1.0, 1.0)
    ideal = 3 + 2 / log2(3) + 1 / log2(4)
    gains = [0, 1 / log2(3), 3 / log2(4), 0, 2 / log2(6)]
    assert of_a["ndcg@1"] == 0.0
    assert of_a["ndcg@3"] == pytest.approx(sum(gains[:3]) / ideal)
    assert of_a["ndcg@5"] == of_a["ndcg@100"] == pytest.approx(sum(gains) / ideal)
    assert of_b["ndcg@100"] == pytest.approx((1 + 2 / log2(13)) / (2 + 1 / log2(3)))


def test_a_query_that_was_not_searched_counts_as_nothing_found() -> None:
    quality = measure({"a": ["p3"]}, QRELS)
    assert quality.of_query["b"] == dict.fromkeys(MEASURES, 0.0)
    assert quality.means()["p@1"] == 0.5


def test_many_queries_are_measured_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    qrels = {f"q{i}": {"p": 1 + i % 3} for i in range(7)}
    found = {f"q{i}": ["x"] * (i % 2) + ["p"] for i in range(7)}
    whole = measure(found, qrels)
    monkeypatch.setattr(measures, "_AT_ONCE", 3)
    assert measure(found, qrels) == whole


def test_a_relevant_grade_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match="relevant grade"):
        measure(RANKINGS, QRELS, relevant_grade=0)


def test_the_whole_corpus_is_ranked(collection_folder: Path, tiny_encoder: Callable[..., BiEncoder]) -> None:
    collection = read_collection(collection_folder, ["train", "test"])
    encoder = tiny_encoder()
    run = retrieve(encoder, collection, ["q9", "q8"], batch_size=1)
    assert list(run) == ["q9", "q8"]
    scores = encoder.encode([collection.queries["q8"]]) @ encoder.encode(list(collection.corpus.values())).T
    best_first = scores[0].argsort(descending=True).tolist()
    assert list(run["q8"]) == [list(collection.corpus)[i] for i in best_first]


def test_a_passages_own_text_finds_it(collection_folder: Path, tiny_encoder: Callable[..., BiEncoder]) -> None:
    collection = read_collection(collection_folder, ["test"])
    queries = dict(collection.queries)
    for query, judged in collection.qrels["test"].items():
        best = max(judged, key=lambda passage: judged[passage])
        queries[query] = collection.corpus[best]
    quality = evaluate(tiny_encoder(), replace(collection, queries=queries), "test")
    assert quality.mrr_at_10 == 1.0
    assert quality.recall_at_100 == 1.0  # 48 passages in all


def test_a_passage_of_the_querys_own_id_is_left_out_as_in_beir(
    collection_folder: Path, tiny_encoder: Callable[..., BiEncoder]
) -> None:
    collection = read_collection(collection_folder, ["test"])
    corpus = dict(collection.corpus) | {"q8": collection.queries["q8"]}  # the query itself: the best of all
    collection = replace(collection, corpus=corpus)
    encoder = tiny_encoder()
    without = retrieve(encoder, collection, ["q8", "q9"], search=Search(depth=5))
    kept = retrieve(encoder, collection, ["q8", "q9"], search=Search(depth=5, identical=True))
    assert next(iter(kept["q8"])) == "q8"
    assert "q8" not in without["q8"]
    assert [len(found) for found in without.values()] == [5, 5]
    assert list(without["q9"]) == list(kept["q9"])  # another query's text is a passage like others
