"""The bundled sample is what its README says, and no level can be told by its form."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest

SAMPLE = Path(__file__).parent.parent / "training" / "sample"
LEVELS = "3210"


def read_jsonl(name: str) -> dict[str, str]:
    lines = (SAMPLE / name).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    texts = {row["_id"]: row["text"] for row in rows}
    assert len(texts) == len(rows), "an id stands twice"
    return texts


@pytest.fixture(scope="module")
def corpus() -> dict[str, str]:
    return read_jsonl("corpus.jsonl")


@pytest.fixture(scope="module")
def queries() -> dict[str, str]:
    return read_jsonl("queries.jsonl")


def qrels(split: str) -> dict[str, dict[str, int]]:
    header, *lines = (SAMPLE / "qrels" / f"{split}.tsv").read_text().splitlines()
    assert header.split("\t") == ["query-id", "corpus-id", "score"]
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for line in lines:
        query, passage, grade = line.split("\t")
        judged[query][passage] = int(grade)
    return judged


def level_of(passage: str) -> str:
    match = re.fullmatch(r"[a-z]+\d\d_l_([0-3])_d_\d+", passage)
    assert match, passage
    return match.group(1)


def test_every_query_has_one_passage_at_each_of_four_levels(corpus: dict[str, str], queries: dict[str, str]) -> None:
    train, test = qrels("train"), qrels("test")
    assert len(queries) >= 160
    assert len(test) >= 40
    assert not train.keys() & test.keys()
    assert train.keys() | test.keys() == queries.keys()
    for query, judged in {**train, **test}.items():
        assert sorted(judged.values()) == [0, 1, 2, 3]
        for passage, grade in judged.items():
            assert passage.startswith(f"{query}_l_{grade}_d_")
    assert len(corpus) == 4 * len(queries)
    areas = Counter(query[:-2] for query in queries)
    assert len(areas) >= 8
    assert {query[:-2] for query in test} == areas.keys(), "an area is missing from the test split"


def test_passages_have_forty_to_ninety_words_and_none_stands_twice(corpus: dict[str, str]) -> None:
    lengths = [len(text.split()) for text in corpus.values()]
    assert min(lengths) >= 40
    assert max(lengths) <= 90
    assert len(set(corpus.values())) == len(corpus)
    six_words: dict[tuple[str, ...], str] = {}
    for passage, text in corpus.items():
        words = re.findall(r"[a-z']+", text.lower())
        for i in range(len(words) - 9):
            assert six_words.setdefault(tuple(words[i : i + 10]), passage) == passage, "ten words in a row are shared"


def test_length_does_not_tell_the_level(corpus: dict[str, str]) -> None:
    lengths: dict[str, list[int]] = defaultdict(list)
    for passage, text in corpus.items():
        lengths[level_of(passage)].append(len(text.split()))
    means = {level: mean(values) for level, values in lengths.items()}
    assert max(means.values()) - min(means.values()) < 3, means
    # Sorting a query's passages by length puts no level first much more often than chance (a quarter).
    longest = Counter(
        max((p for p in corpus if p.startswith(f"{query}_")), key=lambda p: len(corpus[p].split()))[len(query) + 3]
        for query in {p.split("_")[0] for p in corpus}
    )
    assert max(longest.values()) / sum(longest.values()) < 0.35, longest


def test_opening_words_do_not_tell_the_level(corpus: dict[str, str]) -> None:
    openings: dict[str, Counter[str]] = defaultdict(Counter)
    for passage, text in corpus.items():
        openings[level_of(passage)][" ".join(re.findall(r"[a-z']+", text.lower())[:2])] += 1
    for level, counts in openings.items():
        opening, times = counts.most_common(1)[0]
        assert times <= 0.05 * sum(counts.values()), f"level {level} often begins with {opening!r}"
    # A guess from the first word alone, learnt on one half and tried on the other, does about as well as chance.
    passages = sorted(corpus)
    halves = passages[::2], passages[1::2]
    first: dict[str, Counter[str]] = defaultdict(Counter)
    for passage in halves[0]:
        first[corpus[passage].split()[0]][level_of(passage)] += 1
    guesses = [p for p in halves[1] if corpus[p].split()[0] in first]
    right = sum(first[corpus[p].split()[0]].most_common(1)[0][0] == level_of(p) for p in guesses)
    assert right / len(guesses) < 0.40


def test_repeating_the_query_does_not_tell_the_level(corpus: dict[str, str], queries: dict[str, str]) -> None:
    """Overlap of content words must not rank the levels in their order."""

    def stems(text: str) -> set[str]:
        return {word[:5] for word in re.findall(r"[a-z]{4,}", text.lower())}

    share: dict[str, list[float]] = defaultdict(list)
    for passage, text in corpus.items():
        wanted = stems(queries[passage.split("_")[0]])
        share[level_of(passage)].append(len(wanted & stems(text)) / len(wanted))
    means = [mean(share[level]) for level in LEVELS]
    assert not all(higher > lower for higher, lower in pairwise(means)), means
    assert max(means) - min(means) < 0.25, means
