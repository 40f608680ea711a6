"""TREC run files: written, read, ranked as trec_eval ranks them, refused when broken."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from training.errors import InputError
from training.measures import measure
from training.runs import judged_identical, ranking, rankings, read_run, without_identical, write_run

RUN = {"q1": {"a": 0.5, "b": 2.25, "c": 1.0}, "q2": {"b": -3.0}}


def test_a_run_comes_back_from_its_file(tmp_path: Path) -> None:
    write_run(tmp_path / "x.trec", RUN, "ours")
    lines = (tmp_path / "x.trec").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "q1 Q0 b 1 2.25 ours"
    assert [line.split()[3] for line in lines] == ["1", "2", "3", "1"]
    assert read_run(tmp_path / "x.trec") == RUN


def test_ranks_and_order_of_a_file_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "x.trec").write_text("q1\tQ0\ta\t1\t1\tx\nq1 Q0  b 2 3e0 x\n", encoding="utf-8")
    assert rankings(read_run(tmp_path / "x.trec")) == {"q1": ["b", "a"]}


def test_equal_scores_are_ranked_as_trec_eval_ranks_them() -> None:
    """The measures of our ranking are those that trec_eval finds from the scores itself."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        passages = [f"p{i}" for i in range(12)]
        # Many ties, and scores that differ in double precision only.
        scores = {p: float(rng.integers(0, 4)) + float(rng.choice([0.0, 1e-12])) for p in passages}
        judged = {p: int(rng.integers(0, 4)) for p in passages}
        theirs = pytrec_eval.RelevanceEvaluator({"q": judged}, {"ndcg_cut_5", "map"}, relevance_level=2)
        expected = theirs.evaluate({"q": scores})["q"]
        ours = measure({"q": ranking(scores)}, {"q": judged}).of_query["q"]
        assert (ours["ndcg@5"], ours["map"]) == (expected["ndcg_cut_5"], expected["map"])


def test_what_has_the_querys_own_id_goes_and_the_next_takes_its_place() -> None:
    run = {"a": {"a": 9.0, "b": 1.0, "c": 2.0}, "b": {"a": 1.0}}
    assert without_identical(run, depth=1) == {"a": {"c": 2.0}, "b": {"a": 1.0}}
    assert without_identical(run) == {"a": {"c": 2.0, "b": 1.0}, "b": {"a": 1.0}}
    assert judged_identical({"a": {"a": 1}, "b": {"a": 1}}) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("q Q0 a 1 1.0\n", ":1: expected 6 fields"),
        ("q Q0 a 1 1.0 x\nq Q0 a 2 0.5 x\n", ":2: passage 'a' is found twice for query 'q'"),
        ("q Q0 a 1 high x\n", ":1: the score must be a number, got 'high'"),
        ("q Q0 a 1 nan x\n", ":1: the score must be a number, got 'nan'"),
        ("", "the file is empty"),
    ],
)
def test_a_broken_run_is_refused_naming_the_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "x.trec").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(complaint)):
        read_run(tmp_path / "x.trec")
    with pytest.raises(InputError, match="cannot be read"):
        read_run(tmp_path / "absent.trec")


def test_ids_with_white_space_are_not_written(tmp_path: Path) -> None:
    for run, name in (({"q 1": {"a": 1.0}}, "x"), ({"q": {"a b": 1.0}}, "x"), (RUN, "my run"), (RUN, "")):
        with pytest.raises(InputError, match="white space"):
            write_run(tmp_path / "x.trec", run, name)
