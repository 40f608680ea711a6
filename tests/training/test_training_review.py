"""Reviewing generated contexts: each gate catches its kind and no other, and what is kept is a collection."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch

from training.data import read_collection
from training.encoder import BiEncoder
from training.generate import review as command
from training.generate.context import Passage, RankingContext
from training.generate.gates import (
    Repeated,
    duplicates,
    near_duplicates,
    one_level,
    passage_gates,
    quotes_query,
    too_short,
    without,
)
from training.generate.near_duplicates import normal_form, shingles, similarity
from training.generate.order import in_order, level_means, pairs_in_order, score
from training.generate.report import PICTURE_FILE, REPORT_FILE
from training.generate.review import review
from training.generate.statistics import SAMPLE, Sample, Statistics

# Sentences that share no more than chance.
TEXTS = (
    "Bees tell their sisters where the flowers are by dancing on the comb in the dark of the hive.",
    "A glacier moves because ice under pressure flows, slowly, like a very stiff porridge.",
    "The first railway sleepers were blocks of stone, which proved too rigid for the heavier engines.",
    "Yeast turns sugar into alcohol and gas, and the gas makes a loaf of bread rise before it is baked.",
)
QUERY = "how do honey bees share places"


def context(*texts: str, grades: tuple[int, ...] | None = None, query: str = QUERY) -> RankingContext:
    graded = zip(grades or range(len(texts) - 1, -1, -1), texts, strict=True)
    return RankingContext("q", query, tuple(Passage(grade, text) for grade, text in graded))


def test_a_sound_context_passes_every_gate() -> None:
    assert {name: gate(context(*TEXTS)) for name, gate in passage_gates().items()} == dict.fromkeys(
        ("short", "quote", "duplicate", "near-duplicate", "repeated"), frozenset()
    )
    assert not one_level(context(*TEXTS))


@pytest.mark.parametrize("text", ["", "  \n", "...........................", "n/a", "Too little to say"])
def test_empty_and_too_short_passages_fail(text: str) -> None:
    assert too_short(context(TEXTS[0], text)) == {1}


@pytest.mark.parametrize(
    ("passage", "fails"),
    [
        (f"{QUERY.capitalize()}? {TEXTS[0]}", True),
        (f"Asked: «HOW do\nhoney-bees share places», one says: {TEXTS[0]}", True),
        ("How do honey bees and their kin share places where flowers grow? They dance.", False),
        ("They show how do honey bees share placesetting.", False),
    ],
)
def test_a_quoted_query_fails_whatever_its_case_and_punctuation(passage: str, fails: bool) -> None:
    assert quotes_query(context(TEXTS[1], passage)) == ({1} if fails else set())


def test_the_words_of_a_short_query_may_be_used() -> None:
    assert quotes_query(context("Bees sting only when they must.", query="bees sting")) == set()


def test_copies_at_one_level_leave_the_first_and_at_two_levels_none() -> None:
    again = TEXTS[0].upper().replace(" ", "  ")
    assert duplicates(context(TEXTS[0], again, TEXTS[1], grades=(3, 3, 0))) == {1}
    assert duplicates(context(TEXTS[0], TEXTS[1], again)) == {0, 2}


def test_near_duplicates_are_found_and_left_to_one_gate() -> None:
    passage = f"{TEXTS[0]} {TEXTS[1]}"
    near, far = passage.replace("flowers", "blossoms"), f"{TEXTS[0]} {TEXTS[2]}"
    assert near_duplicates(context(passage, far, near)) == {0, 2}
    assert near_duplicates(context(passage, far, near, grades=(3, 2, 3))) == {2}
    assert duplicates(context(passage, far, near)) == set()
    assert near_duplicates(context(passage, passage)) == set()


def test_similarity_is_the_jaccard_index_of_shingles() -> None:
    assert shingles("abcdef") == {"abcde", "bcdef"}
    assert shingles("abc") == {"abc"}
    assert similarity(shingles("abcdef"), shingles("abcdefg")) == pytest.approx(2 / 3)
    assert similarity(shingles(""), shingles("")) == 1


def test_the_normal_form_forgets_case_width_and_punctuation() -> None:
    assert normal_form("  Ｆｕｌｌ—width, STRASSE_ß!\n") == "full width strasse ss"


def test_what_an_earlier_context_had_is_repeated_and_kept_once() -> None:
    gate = Repeated()
    assert gate(context(TEXTS[0], TEXTS[1])) == set()
    assert gate(context(TEXTS[2], TEXTS[1].upper())) == {1}
    assert gate(context(TEXTS[3], TEXTS[3])) == set()  # within a context it is a duplicate


def test_a_context_of_one_level_ranks_nothing() -> None:
    assert one_level(context())
    assert one_level(context(TEXTS[0], TEXTS[1], grades=(2, 2)))
    assert without(context(*TEXTS), frozenset({0, 3})).passages == context(*TEXTS).passages[1:3]


def test_order_is_judged_by_the_mean_of_a_level() -> None:
    four = context(*TEXTS, grades=(3, 3, 1, 0))
    scores = (0.9, 0.3, 0.5, 0.1)
    assert level_means(four, scores) == pytest.approx({3: 0.6, 1: 0.5, 0: 0.1})
    assert in_order(four, scores)
    assert pairs_in_order(four, scores) == (4, 5)  # 0.3 < 0.5 is out of order; the two 3s are no pair
    assert not in_order(four, (0.5, 0.5, 0.5, 0.1))  # equal is not above


def test_scores_are_each_contexts_own(tiny_encoder: Callable[..., BiEncoder]) -> None:
    encoder = tiny_encoder()
    contexts = [context("w1 w2", "w3", query="w1"), context(query="w5"), context("w4 w5", query="w4")]
    first, nothing, last = score(encoder, contexts, batch_size=2)
    assert nothing == ()
    for query, text, value in (("w1", "w1 w2", first[0]), ("w1", "w3", first[1]), ("w4", "w4 w5", last[0])):
        a, b = encoder.encode([query, text])
        torch.testing.assert_close(torch.tensor(value), a @ b)


def write_jsonl(path: Path, records: list[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def counted(contexts: list[RankingContext], *dropped: str, encoder: BiEncoder | None = None) -> tuple[Any, Statistics]:
    statistics = Statistics()
    kept = list(review(contexts, dropped, encoder, statistics))
    return [[passage.grade for passage in one.passages] for one in kept], statistics


def test_every_gate_counts_and_only_those_named_drop() -> None:
    flawed = context(TEXTS[0], "n/a", TEXTS[2], TEXTS[2])
    for dropped, kept in (
        ((), [3, 2, 1, 0]),
        (("short",), [3, 1, 0]),
        (("duplicate",), [3, 2]),
        (("short", "duplicate"), [3]),
        (("short", "duplicate", "one-level"), None),
    ):
        grades, statistics = counted([flawed], *dropped)
        assert grades == ([] if kept is None else [kept])
        assert (statistics.gates["short"].passages, statistics.gates["duplicate"].passages) == (1, 2)
        assert statistics.gates["quote"].passages == 0
        assert statistics.passages_kept == len(kept or ())


def test_a_context_without_passages_is_never_kept() -> None:
    assert counted([context()])[0] == []


def test_the_order_gate_drops_whole_contexts(tiny_encoder: Callable[..., BiEncoder]) -> None:
    encoder = tiny_encoder()
    (a, b), *_ = score(encoder, [context("w1 w2 w3", "w9 w8", query="w1 w2 w3")])
    assert a > b
    right = context("w1 w2 w3", "w9 w8", query="w1 w2 w3")
    wrong = context("w9 w8", "w1 w2 w3", query="w1 w2 w3")
    grades, statistics = counted([right, wrong], encoder=encoder)
    assert grades == [[1, 0], [1, 0]]
    assert (statistics.ordered, statistics.comparable) == (1, 2)
    assert (statistics.pairs_ordered, statistics.pairs) == (1, 2)
    grades, statistics = counted([wrong, right], "order", encoder=encoder)
    assert grades == [[1, 0]]
    assert (statistics.gates["order"].contexts, statistics.gates["order"].passages) == (1, 2)


def test_a_sample_is_even_and_bounded() -> None:
    sample = Sample()
    for value in range(10 * SAMPLE):
        sample.add(value)
    assert sample.count == 10 * SAMPLE
    assert len(sample.values) == SAMPLE
    for share in (0.05, 0.5, 0.95):
        assert sample.quantile(share) == pytest.approx(share * sample.count, abs=0.02 * sample.count)


def test_memory_grows_by_hashes_alone() -> None:
    """Contexts of 8 kB: a few are alive at a time, and what the gates and the counts keep is 64 bits a text."""
    alive: WeakSet[RankingContext] = WeakSet()
    at_most = 0

    def contexts() -> Iterator[RankingContext]:
        nonlocal at_most
        for number in range(5 * command.CHUNK):
            texts = [f"{number} {level} " + "word " * 400 for level in range(4)]
            one = RankingContext(f"q{number}", QUERY, tuple(Passage(i, text) for i, text in enumerate(texts)))
            alive.add(one)
            at_most = max(at_most, len(alive))
            yield one

    statistics = Statistics()
    assert sum(1 for _ in review(contexts(), ["short"], None, statistics)) == 5 * command.CHUNK
    assert at_most <= 2 * command.CHUNK  # one is read while the one before is judged
    gate = Repeated()
    for one in contexts():
        gate(one)
    assert len(pickle.dumps(gate)) < 12 * 4 * 5 * command.CHUNK + 200
    before = len(pickle.dumps(statistics))
    for one in contexts():
        statistics.add(one, None)
    assert len(pickle.dumps(statistics)) - before < 4 * 12 * 5 * command.CHUNK * 3


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Four queries of the tiny encoder's words; of the last, a level repeats another. Two more were set aside."""
    folder = tmp_path / "generated"
    folder.mkdir()
    records: list[Any] = []
    for query in range(4):
        words = [f"w{10 * query + i}" for i in range(10)]
        passages = [{"grade": grade, "text": " ".join(words[grade:] + words[:3])} for grade in (3, 2, 1, 0)]
        if query == 3:
            passages[1]["text"] = passages[0]["text"]
        records.append({"query_id": f"q{query}", "query": " ".join(words[:5]), "passages": passages, "tokens": 7})
    write_jsonl(folder / "contexts.jsonl", records)
    write_jsonl(
        folder / "set_aside.jsonl",
        [{"query_id": f"q{i}", "reason": f"refused: {i}", "raw": "I | cannot."} for i in (8, 9)],
    )
    return folder


def test_the_command_leaves_a_collection_and_a_report(generated: Path, model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(generated), "--out", str(out), "--model", str(model_folder), "--drop", "duplicate"]
    assert command.main(arguments) == 0
    collection = read_collection(out, ["train"])
    assert len(collection.corpus) == 14
    assert {query: sorted(grades.values()) for query, grades in collection.qrels["train"].items()} == {
        "q0": [0, 1, 2, 3],
        "q1": [0, 1, 2, 3],
        "q2": [0, 1, 2, 3],
        "q3": [0, 1],
    }
    written = json.loads((generated / "contexts.jsonl").read_text(encoding="utf-8").splitlines()[0])
    for passage, grade in collection.qrels["train"]["q0"].items():
        assert collection.corpus[passage] == written["passages"][3 - grade]["text"]
    text = (out / REPORT_FILE).read_text(encoding="utf-8")
    assert "Kept: 4 of 4 (100.0%) contexts, 14 of 16 (87.5%) passages. Set aside while generating: 2" in text
    assert "| refused |       2 |" in text
    for gate in command.GATES:
        assert f"| {gate} " in text
    assert (out / PICTURE_FILE).read_bytes().startswith(b"\x89PNG")


def test_the_report_says_what_was_not_checked(generated: Path, tmp_path: Path) -> None:
    (generated / "set_aside.jsonl").unlink()
    assert command.main([str(generated), "--out", str(tmp_path / "out"), "--no-encoder", "--drop", "none"]) == 0
    text = (tmp_path / "out" / REPORT_FILE).read_text(encoding="utf-8")
    assert "16 of 16 (100.0%) passages" in text
    assert "Not checked." in text
    assert "No query was set aside." in text


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("no json", "not JSON"),
        ('{"query": "w1", "passages": []}', '"query_id" must be'),
        ('{"query_id": "a\\tb", "query": "w1", "passages": []}', '"query_id" must be'),
        ('{"query_id": "q9", "query": " ", "passages": []}', '"query" must be'),
        ('{"query_id": "q9", "query": "w1", "passages": {}}', '"passages" must be a list, got dict'),
        ('{"query_id": "q9", "query": "w1", "passages": [{"grade": true, "text": "w1"}]}', 'integer "grade" >= 0'),
        ('{"query_id": "q9", "query": "w1", "passages": ["w1"]}', 'integer "grade" >= 0'),
        ('{"query_id": "q0", "query": "w1", "passages": []}', "query 'q0' has a context already"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_left(
    line: str, problem: str, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (generated / "contexts.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    assert command.main([str(generated), "--out", str(tmp_path / "out"), "--no-encoder"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {generated / 'contexts.jsonl'}:5: ")
    assert problem in error
    assert not (tmp_path / "out").exists()


def test_an_unknown_gate_is_refused(generated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main([str(generated), "--out", "x", "--drop", "short,shorter"])
    assert "no gate 'shorter'" in capsys.readouterr().err


def test_a_run_of_which_nothing_is_left_is_refused(
    generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(generated / "contexts.jsonl", [{"query_id": "q", "query": "w1", "passages": []}])
    assert command.main([str(generated), "--out", str(tmp_path / "out"), "--no-encoder"]) == 1
    assert "no context is left" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
