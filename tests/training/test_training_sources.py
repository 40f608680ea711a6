"""A YAML joins sources as the paper's data configurations did; what it may not say is refused in one line."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from torch.utils.data import DataLoader, DistributedSampler

from training import train
from training.collection_writer import CollectionWriter
from training.data import Collection, read_collection
from training.encoder import BiEncoder
from training.errors import InputError
from training.groups import GradedGroups, Group, GroupCollator
from training.judgements import HEADER
from training.losses import LOSSES
from training.sources import read_sources

QUERIES = 4
PAPER = {
    "group_size": 7,
    "train": [
        {"folder": "real", "min_score": 1, "score_transform": 3},
        {"folder": "real", "qrels": "mined.tsv", "score_transform": 1, "group_random_k": 2},
        {"corpus": "synthetic/corpus.jsonl", "queries": "real/queries.jsonl", "qrels": "synthetic/qrels/train.tsv"},
    ],
    "test": [{"folder": "real", "qrels": "real/qrels/train.tsv"}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Real queries 0 … 3 with passage 0 judged 1 and passage 9 judged 0; mined.tsv, which finds 0 … 8, so the positive
    too; synthetic passages 3 … 0 of queries 0 … 2, whose ids are those of real ones."""
    for name in ("real", "synthetic"):
        (tmp_path / name).mkdir()
    with CollectionWriter(tmp_path / "real") as real:
        for query in range(QUERIES):
            passages = [(f"p{query}_{i}", f"w{query} real {i}", 0) for i in range(1, 10)]
            real.add(f"q{query}", f"w{query}", [(f"p{query}_0", f"w{query} real 0", 1), *passages])
    judged = [f"q{query}\tp{query}_{i}\t{grade}" for query in range(QUERIES) for i, grade in ((0, 1), (9, 0))]
    write_qrels(tmp_path / "real" / "qrels" / "train.tsv", judged)
    mined = [f"q{query}\tp{query}_{i}\t{20 - i / 3}" for i in range(9) for query in range(QUERIES)]
    write_qrels(tmp_path / "mined.tsv", mined)
    with CollectionWriter(tmp_path / "synthetic") as synthetic:
        for query in range(QUERIES - 1):
            synthetic.add(f"q{query}", f"w{query}", [(f"p{query}_{g}", f"w{query} synthetic {g}", g) for g in range(4)])
    return tmp_path


def write_qrels(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")


def read(folder: Path, content: Any, *splits: str) -> Collection:
    file = folder / "data.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return read_collection(file, splits or ("train",))


def groups_of(collection: Collection, size: int, epochs: int = 1) -> Iterator[Group]:
    groups = GradedGroups(collection, "train", size, seed=1)
    for epoch in range(epochs):
        groups.set_epoch(epoch)
        yield from (groups[place] for place in range(len(groups)))


def source(**options: Any) -> dict[str, Any]:
    return {"train": [{"folder": "synthetic", **options}]}


def test_the_papers_mixture_gives_its_groups_of_seven(folder: Path) -> None:
    collection = read(folder, PAPER)
    assert collection.group_size == 7
    groups = list(groups_of(collection, 7))
    assert [group.query for group in groups] == ["w0", "w1", "w2", "w3"]
    for group in groups[:3]:
        assert group.grades == (3, 3, 2, 1, 1, 1, 0)
    assert groups[3].grades == (3, 1, 1)  # without synthetic passages


def test_texts_come_from_each_sources_own_corpus(folder: Path) -> None:
    """Though both corpora have passages of the same ids."""
    group = next(groups_of(read(folder, PAPER), 7))
    by_kind = Counter((text.split()[1], grade) for text, grade in zip(group.passages, group.grades, strict=True))
    assert by_kind == {("real", 3): 1, ("real", 1): 2} | {("synthetic", grade): 1 for grade in range(4)}


def test_mined_passages_are_drawn_anew_each_epoch_and_never_a_positive(folder: Path) -> None:
    drawn: Counter[str] = Counter()
    for group in groups_of(read(folder, PAPER), 7, epochs=100):
        drawn.update(
            text for text, grade in zip(group.passages, group.grades, strict=True) if grade == 1 and "real" in text
        )
    assert set(drawn) == {f"w{query} real {i}" for query in range(QUERIES) for i in range(1, 9)}
    assert all(10 <= count <= 42 for count in drawn.values())  # 25 expected, 4.3 the standard deviation


def test_the_first_source_to_judge_a_passage_grades_it(folder: Path) -> None:
    both = [{"folder": "real", "score_transform": 3}, {"folder": "real", "qrels": "mined.tsv", "score_transform": 1}]
    first = read(folder, {"train": both}).qrels["train"]["q0"]
    assert first == {"p0_0": 3, "p0_9": 3} | {f"p0_{i}": 1 for i in range(1, 9)}
    second = read(folder, {"train": both[::-1]}).qrels["train"]["q0"]
    assert second == {"p0_9": 3} | {f"p0_{i}": 1 for i in range(9)}


def test_a_positive_that_is_not_drawn_is_still_no_negative(folder: Path) -> None:
    lines = [f"q0\tp0_{i}\t1" for i in range(4)]
    write_qrels(folder / "positives.tsv", lines)
    sources = [
        {"folder": "real", "qrels": "positives.tsv", "score_transform": 3, "group_random_k": 1},
        {"folder": "real", "qrels": "mined.tsv", "score_transform": 0, "group_random_k": 4},
    ]
    drawn: dict[float, set[str]] = {0: set(), 3: set()}
    for group in groups_of(read(folder, {"train": sources}), 5, epochs=50):
        if group.query == "w0":
            assert list(group.grades) == [3, 0, 0, 0, 0]
            for text, grade in zip(group.passages, group.grades, strict=True):
                drawn[grade].add(text)
    assert drawn == {3: {f"w0 real {i}" for i in range(4)}, 0: {f"w0 real {i}" for i in range(4, 9)}}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0: 0, 1: 1, 2: 2, 3: 3}),
        ({"min_score": 2}, {2: 2, 3: 3}),
        ({"max_score": 2}, {0: 0, 1: 1}),
        ({"min_score": 1, "max_score": 2.5}, {1: 1, 2: 2}),
        ({"score_transform": 2}, dict.fromkeys(range(4), 2)),
        ({"score_transform": {0: 0, 1: 0, 2: 1, 3: 1}}, {0: 0, 1: 0, 2: 1, 3: 1}),
        ({"score_transform": {3: 7}, "min_score": 3}, {3: 7}),
        ({"score_transform": 0.5, "min_score": 3}, {3: 0.5}),
    ],
)
def test_scores_are_filtered_and_then_transformed(options: Any, expected: dict[int, float], folder: Path) -> None:
    """min_score counts, max_score does not: the paper's two binary sources, 2 and above and below 2, share nothing."""
    judged = read(folder, source(**options)).qrels["train"]["q1"]
    assert judged == {f"p1_{passage}": grade for passage, grade in expected.items()}
    assert {type(grade) for grade in judged.values()} == {type(next(iter(expected.values())))}


@pytest.mark.parametrize(
    ("transform", "expected"), [("floor", [0, 1, 2]), ("ceil", [1, 2, 2]), ("real", [0.25, 1.75, 2.0])]
)
def test_a_teachers_scores_are_rounded_or_kept(transform: str, expected: list[float], folder: Path) -> None:
    write_qrels(folder / "teacher.tsv", ["q0\tp0_0\t0.25", "q0\tp0_1\t1.75", "q0\tp0_2\t2"])
    judged = read(folder, source(qrels="teacher.tsv", score_transform=transform)).qrels["train"]["q0"]
    assert list(judged.values()) == expected
    assert {type(grade) for grade in judged.values()} == {type(expected[0])}


def test_real_grades_make_batches_of_floats(folder: Path, tiny_encoder: Callable[..., BiEncoder]) -> None:
    write_qrels(folder / "teacher.tsv", ["q0\tp0_0\t0.25", "q0\tp0_1\t-1.5", "q1\tp1_2\t2"])
    options = {"train": [{"folder": "synthetic", "qrels": "teacher.tsv", "score_transform": "real"}]}
    collate = GroupCollator(tiny_encoder().tokenizer, max_length=16)
    collection = read(folder, options)
    batch = collate(list(groups_of(collection, 4)))
    assert batch["grades"].dtype == torch.float32
    assert batch["grades"].tolist() == [[0.25, -1.5], [2.0, 0.0]]
    assert batch["mask"].tolist() == [[True, True], [True, False]]
    assert collection.highest_grade() == 0  # real grades have no levels
    mixed = read(folder, {"train": [*options["train"], {"folder": "synthetic"}]})
    assert collate(list(groups_of(mixed, 4)))["grades"].dtype == torch.float32
    assert collate(list(groups_of(read(folder, source()), 4)))["grades"].dtype == torch.int64


def test_a_folder_is_the_case_of_one_source(collection_folder: Path, tmp_path: Path) -> None:
    listed = {"train": [{"folder": "collection"}], "test": [{"folder": "collection"}]}
    one, other = read_collection(collection_folder, ["train", "test"]), read(tmp_path, listed, "train", "test")
    assert list(groups_of(one, 3, epochs=3)) == list(groups_of(other, 3, epochs=3))
    assert dict(one.qrels["test"]) == dict(other.qrels["test"])
    assert dict(one.corpus) == dict(other.corpus)


def test_queries_without_passages_are_not_used(folder: Path) -> None:
    options = {"train": [{"folder": "synthetic", "queries": "real/queries.jsonl", "min_score": 3}]}
    judged = read(folder, options).qrels["train"]
    assert list(judged) == ["q0", "q1", "q2"]
    assert "q3" not in judged
    assert len(read(folder, {"train": [{"folder": "real", "min_score": 1}]}).qrels["train"]["q3"]) == 1


def test_queries_come_in_the_order_of_their_judgements(folder: Path) -> None:
    write_qrels(folder / "mixed.tsv", ["q2\tp2_0\t1", "q0\tp0_0\t0", "q1\tp1_0\t2", "q0\tp0_1\t0", "q1\tp1_1\t0"])
    judged = read(folder, source(qrels="mixed.tsv")).qrels["train"]
    assert dict(judged) == {"q2": {"p2_0": 1}, "q0": {"p0_0": 0, "p0_1": 0}, "q1": {"p1_0": 2, "p1_1": 0}}
    assert list(judged) == ["q2", "q0", "q1"]
    assert list(read(folder, source(qrels="mixed.tsv", min_score=2)).qrels["train"]) == ["q1"]


def test_groups_are_the_same_in_any_worker_and_process(folder: Path) -> None:
    """A worker that is spawned, or another rank, has a copy: it holds paths, not texts, and draws the same."""
    groups = GradedGroups(read(folder, PAPER), "train", 5, seed=3)
    here = [groups[place] for place in range(QUERIES)]
    for workers in (0, 2):
        loader = DataLoader(groups, batch_size=1, num_workers=workers, collate_fn=lambda batch: batch[0])
        assert list(loader) == here
    judged = pickle.dumps(groups._judged)
    assert len(judged) < 2000
    groups._judged = pickle.loads(judged)
    assert [groups[place] for place in reversed(range(QUERIES))] == here[::-1]


def test_ranks_share_one_processes_groups_between_them(folder: Path) -> None:
    whole = list(groups_of(read(folder, PAPER), 5))
    shared: list[Group] = []
    for rank in range(2):
        groups = GradedGroups(read_collection(folder / "data.yaml", ["train"]), "train", 5, seed=1)
        sampler: DistributedSampler[Group] = DistributedSampler(groups, num_replicas=2, rank=rank, seed=1)
        shared += DataLoader(groups, batch_size=1, sampler=sampler, collate_fn=lambda batch: batch[0])
    assert sorted(shared, key=lambda group: group.query) == whole


def test_a_query_id_with_two_texts_is_refused(folder: Path) -> None:
    path = folder / "synthetic" / "queries.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"w1"', '"other"'), encoding="utf-8")
    message = f"{path}:2: query 'q1' is another text in {folder / 'real/queries.jsonl'}"
    with pytest.raises(InputError, match=message):
        read(folder, {"train": [{"folder": "real"}, {"folder": "synthetic"}]})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"score_transform": {3: 3, 2: 1}}, "synthetic/qrels/train.tsv:2: score_transform gives no grade >= 0 for"),
        ({"qrels": "below.tsv"}, "below.tsv:2: the grade must be an integer >= 0, got '0.5'"),
        ({"qrels": "below.tsv", "score_transform": "floor"}, "below.tsv:3: score_transform gives no grade >= 0 for"),
        ({"min_score": 4}, "synthetic/qrels/train.tsv: no score is in the range of min_score 4, max_score None"),
        ({"qrels": "none.tsv"}, "none.tsv: cannot be read"),
        ({"corpus": "real/queries.jsonl"}, "synthetic/qrels/train.tsv:2: unknown passage 'p0_0', not in queries.jsonl"),
    ],
)
def test_what_a_source_cannot_give_is_named(options: Any, problem: str, folder: Path) -> None:
    write_qrels(folder / "below.tsv", ["q0\tp0_0\t0.5", "q0\tp0_1\t-0.5"])
    queries = {"queries": "real/queries.jsonl"}
    with pytest.raises(InputError) as caught:
        read(folder, source(**queries, **options))
    assert str(caught.value).startswith(f"{folder}/{problem}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("train: [", ":1: not YAML: "),
        ("train:\n- folder: real\n  folder: real\n", ":3: not YAML: the key 'folder' comes twice"),
        ("train: !!python/object/apply:os.getcwd []", ":1: not YAML: could not determine a constructor"),
        ("", ": must be a mapping, got None"),
        ("- folder: real", ": must be a mapping, got ["),
        ({}, ": names no sources"),
        ({"group_size": 3}, ": names no sources"),
        ({"trian": []}, ": trian: no such key; there are group_size, train, dev, test"),
        ({"train": []}, ": train: must be a list of sources, got []"),
        ({"train": {"folder": "real"}}, ": train: must be a list of sources, got {"),
        ({"train": ["real"]}, ": train[0]: must be a mapping, got 'real'"),
        ({"train": [{"folder": "real"}, {"path": "real"}]}, ": train[1]: path: no such key; there are folder, corpus"),
        ({"train": [{"corpus": "a", "queries": "b"}]}, ": train[0]: qrels: is missing, and so is folder"),
        ({"train": [{"folder": 3}]}, ": train[0]: folder: must be a path, got 3"),
        ({"train": [dict.fromkeys(("folder", "corpus", "queries", "qrels"), "a")]}, ": train[0]: folder: of no use"),
        (source(min_score="high"), ": train[0]: min_score: must be a number, got 'high'"),
        (source(max_score=float("nan")), ": train[0]: max_score: must be a number, got nan"),
        (source(min_score=2, max_score=2), ": train[0]: max_score: must be above min_score"),
        (source(group_random_k=0), ": train[0]: group_random_k: must be an integer of at least 1, got 0"),
        (source(group_random_k=True), ": train[0]: group_random_k: must be an integer of at least 1, got True"),
        (
            source(score_transform="round"),
            ": train[0]: score_transform: must be a number, a mapping of scores to grades",
        ),
        (source(score_transform={"a": 1}), ": train[0]: score_transform: must be a number, a mapping"),
        (source(score_transform={}), ": train[0]: score_transform: must be a number, a mapping"),
        (source(score_transform=None), ": train[0]: score_transform: must be a number, a mapping"),
        (source(score_transform={1: -1}), ": train[0]: score_transform: a grade must be at least 0, got -1"),
        (source() | {"group_size": 0}, ": group_size: must be an integer of at least 1, got 0"),
        ({"test": [{"folder": "real"}]}, ": has no 'train', which is needed here"),
    ],
)
def test_what_the_yaml_may_not_say_is_named(content: Any, problem: str, folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(folder, content)
    assert str(caught.value).startswith(str(folder / "data.yaml") + problem)
    assert "\n" not in str(caught.value)


def test_what_is_searched_has_one_corpus(folder: Path) -> None:
    listed = {
        "train": [{"folder": "real"}],
        "test": [{"folder": name, "qrels": f"{name}/qrels/train.tsv"} for name in ("real", "synthetic")],
    }
    with pytest.raises(InputError, match="the sources of 'test' must share one corpus"):
        read(folder, listed, "train", "test")


def test_what_is_measured_has_integer_grades(folder: Path) -> None:
    with pytest.raises(InputError, match="the grades of 'test' must be integers"):
        read(
            folder,
            {"test": [{"folder": "synthetic", "qrels": "synthetic/qrels/train.tsv", "score_transform": 0.5}]},
            "test",
        )


def test_a_yaml_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: cannot be read"):
        read_collection(tmp_path / "none.yaml", ["train"])


def test_a_yaml_trains_and_its_group_size_yields_to_the_command_line(
    folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def spy(collection: Collection, split: str, size: int, seed: int) -> GradedGroups:
        seen.append(size)
        return GradedGroups(collection, split, size, seed)

    monkeypatch.setattr(train, "GradedGroups", spy)
    read(folder, PAPER)
    arguments = ["--data", str(folder / "data.yaml"), "--model", str(model_folder), "--max_steps", "1"]
    arguments += ["--per_device_train_batch_size", "4", "--relevant-grade", "1"]
    assert train.main([*arguments, "--output", str(tmp_path / "a")]) == 0
    assert train.main([*arguments, "--output", str(tmp_path / "b"), "--group-size", "3"]) == 0
    assert seen == [7, 3]
    assert json.loads((tmp_path / "a" / train.METRICS_FILE).read_text(encoding="utf-8"))["run"]["steps"] == []


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_on_real_grades(loss: str, folder: Path, model_folder: Path, tmp_path: Path) -> None:
    lines = [f"q{query}\tp{query}_{i}\t{i / 3 + query / 7}" for query in range(QUERIES) for i in range(4)]
    write_qrels(folder / "teacher.tsv", lines)
    sources = [{"folder": "real", "qrels": "teacher.tsv", "score_transform": "real"}]
    read(folder, {"train": sources, "test": PAPER["test"]})
    arguments = ["--data", str(folder / "data.yaml"), "--model", str(model_folder), "--max_steps", "2"]
    arguments += ["--per_device_train_batch_size", "4", "--relevant-grade", "1", "--logging_steps", "1"]
    output = tmp_path / "out"
    assert train.main([*arguments, "--loss", loss, "--output", str(output)]) == 0
    losses = json.loads((output / train.METRICS_FILE).read_text(encoding="utf-8"))["run"]["losses"]
    assert len(losses) == 2
    assert all(0 < value < float("inf") for value in losses)


def test_the_readmes_example_is_one_that_is_read(tmp_path: Path) -> None:
    readme = (Path(train.__file__).parent / "README.md").read_text(encoding="utf-8")
    example = readme.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "data.yaml").write_text(example, encoding="utf-8")
    options = read_sources(tmp_path / "data.yaml")
    assert options.group_size == 7
    assert [one.selection.group_random_k for one in options.splits["train"]] == [None, 2, None]
