"""Groups are even over grades, repeat nothing, depend on seed, epoch and place alone; batches mask them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from training.collection_writer import CollectionWriter
from training.data import Collection, read_collection
from training.encoder import BiEncoder
from training.errors import InputError
from training.groups import GradedGroups, Group, GroupCollator, draw_evenly

MANY = {grade: [f"g{grade}_{i}" for i in range(50)] for grade in range(4)}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Two queries: one with five passages of each grade 0 … 3, one with two passages in all."""
    qrels = {
        "rich": {f"rich_{grade}_{i}": grade for grade in range(4) for i in range(5)},
        "poor": {"poor_2": 2, "poor_0": 0},
    }
    with CollectionWriter(tmp_path) as writer:
        for query, judged in qrels.items():
            writer.add(query, f"{query} query", [(passage, f"text of {passage}", g) for passage, g in judged.items()])
    return read_collection(tmp_path, ["train"])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9, 40])
def test_grades_are_drawn_evenly(size: int) -> None:
    drawn = draw_evenly(MANY, size, random.Random(0))
    counts = Counter(grade for _, grade in drawn)
    assert sum(counts.values()) == size
    assert max(counts.values()) - min(counts[grade] for grade in MANY) <= 1


def test_a_grade_that_runs_out_is_made_up_for_by_the_others() -> None:
    scarce = {0: MANY[0], 1: MANY[1], 3: ["only"]}
    counts = Counter(grade for _, grade in draw_evenly(scarce, 9, random.Random(0)))
    assert counts == {0: 4, 1: 4, 3: 1}


def test_no_passage_is_drawn_twice() -> None:
    for seed in range(20):
        drawn = [passage for passage, _ in draw_evenly(MANY, 150, random.Random(seed))]
        assert len(set(drawn)) == 150


def test_fewer_places_than_grades_favour_no_grade() -> None:
    counts = Counter(grade for seed in range(2000) for _, grade in draw_evenly(MANY, 1, random.Random(seed)))
    assert all(400 < counts[grade] < 600 for grade in MANY)


def test_the_best_grade_comes_first(collection: Collection) -> None:
    assert GradedGroups(collection, "train", 8, seed=1)[0].grades == (3, 3, 2, 2, 1, 1, 0, 0)


def test_a_group_holds_the_texts_of_its_grades(collection: Collection) -> None:
    group = GradedGroups(collection, "train", 8, seed=1)[0]
    assert group.query == "rich query"
    assert [text.split("_")[1] for text in group.passages] == [str(grade) for grade in group.grades]


def test_a_group_depends_on_seed_epoch_and_place_alone(collection: Collection) -> None:
    def groups(seed: int, epoch: int) -> list[Group]:
        dataset = GradedGroups(collection, "train", 4, seed)
        dataset.set_epoch(epoch)
        return [dataset[0], dataset[1]]

    reference = groups(seed=1, epoch=0)
    random.seed(5)
    torch.manual_seed(5)
    dataset = GradedGroups(collection, "train", 4, seed=1)
    assert [dataset[1], dataset[0]][::-1] == reference  # another order of access, another global state
    assert groups(seed=1, epoch=1) != reference
    assert groups(seed=2, epoch=0) != reference


def test_workers_that_outlive_an_epoch_see_the_new_one(collection: Collection) -> None:
    dataset = GradedGroups(collection, "train", 4, seed=1)
    loader = DataLoader(dataset, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=list)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        assert next(iter(loader)) == [dataset[0], dataset[1]]


def test_a_group_of_no_passage_is_refused(collection: Collection) -> None:
    with pytest.raises(InputError, match="at least 1"):
        GradedGroups(collection, "train", 0, seed=1)


def test_ragged_groups_are_masked(collection: Collection, tiny_encoder: Callable[..., BiEncoder]) -> None:
    dataset = GradedGroups(collection, "train", 4, seed=1)
    batch = GroupCollator(tiny_encoder().tokenizer, max_length=16)([dataset[1], dataset[0]])
    assert batch["mask"].tolist() == [[True, True, False, False], [True, True, True, True]]
    assert batch["grades"].tolist() == [[2, 0, 0, 0], [3, 2, 1, 0]]
    assert batch["queries"]["input_ids"].shape[0] == 2
    assert batch["passages"]["input_ids"].shape[0] == 8


def test_passages_are_query_major(collection_folder: Path, tiny_encoder: Callable[..., BiEncoder]) -> None:
    dataset = GradedGroups(read_collection(collection_folder, ["train"]), "train", 4, seed=1)
    tokenizer = tiny_encoder().tokenizer
    batch = GroupCollator(tokenizer, max_length=16)([dataset[0], dataset[1]])
    decoded = tokenizer.batch_decode(batch["passages"]["input_ids"], skip_special_tokens=True)
    assert decoded == [*dataset[0].passages, *dataset[1].passages]


def test_no_key_is_called_labels(collection: Collection, tiny_encoder: Callable[..., BiEncoder]) -> None:
    """HF Trainer would then not divide the loss by the number of accumulated batches."""
    dataset = GradedGroups(collection, "train", 4, seed=1)
    assert "labels" not in GroupCollator(tiny_encoder().tokenizer, max_length=16)([dataset[0]])
