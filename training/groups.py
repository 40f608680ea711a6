"""Training examples: a query with some of its graded passages, and the collator that batches them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from training.data import Collection
from training.errors import InputError
from training.judgements import Handle

Passage = TypeVar("Passage")  # whatever names one
Grade = TypeVar("Grade", bound=float)


@dataclass(frozen=True)
class Group:
    query: str
    passages: tuple[str, ...]  # the texts, best grade first
    grades: tuple[float, ...]  # one a passage; integers, unless the collection's grades are real numbers


class GradedGroups(Dataset[Group]):
    """One group a query of a split, redrawn every epoch.

    First each source draws its `group_random_k`, then the group is drawn from what all sources give: evenly over the
    query's grades and without repetition; a query with fewer than `size` passages gives all it has. What is drawn
    depends on the seed, the epoch and the query's place only: not on the order of access, the number of workers or
    processes or any global random state.

    Args:
        places: only these queries of the split, by their places; None: all.
    """

    def __init__(
        self, collection: Collection, split: str, size: int, seed: int, places: Sequence[int] | None = None
    ) -> None:
        if size < 1:
            raise InputError(f"the group size must be at least 1 passage, got {size}")
        self._judged = collection.qrels[split]
        self._places = range(len(self._judged)) if places is None else places
        self.size = size
        self._seed = seed
        # In shared memory: workers that outlive an epoch (persistent_workers) see the new one too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch is drawn."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Group:
        drawn = self.drawn(index)
        texts = tuple(self._judged.passage(handle) for handle, _ in drawn)
        return Group(self._judged.query(self._places[index]), texts, tuple(grade for _, grade in drawn))

    def drawn(self, index: int) -> list[tuple[Handle, float]]:
        """The passages of a group, not read yet, and their grades, best grade first."""
        place = self._places[index]
        rng = random.Random(f"{self._seed}/{int(self._epoch)}/{place}")
        return draw_evenly(_invert(self._judged.passages(place, rng)), self.size, rng)


def draw_evenly(
    by_grade: Mapping[Grade, Sequence[Passage]], size: int, rng: random.Random
) -> list[tuple[Passage, Grade]]:
    """At most `size` (passage, grade) pairs, best grade first: one from each grade in turn till they suffice.

    So two grades' counts differ by at most one unless the rarer grade has run out. Which grades get the odd
    passage is drawn too: with fewer places than grades, none is favoured over the epochs.
    """
    shuffled = [
        [(passage, grade) for passage in rng.sample(passages, min(size, len(passages)))]
        for grade, passages in sorted(by_grade.items())
    ]
    rng.shuffle(shuffled)
    turns = chain.from_iterable(zip_longest(*shuffled))
    drawn = [pair for pair in turns if pair is not None][:size]
    return sorted(drawn, key=lambda pair: -pair[1])


def _invert(grades: Mapping[Passage, float]) -> dict[float, list[Passage]]:
    by_grade: dict[float, list[Passage]] = {}
    for passage, grade in grades.items():
        by_grade.setdefault(grade, []).append(passage)
    return by_grade


@dataclass(frozen=True)
class GroupCollator:
    """Makes a batch of Q groups; K is `width`, or the size of the largest where that is None.

    Returns:
        queries: the tokenizer's tensors for Q texts.
        passages: the same for Q·K texts, query-major: query i's are i·K … i·K+K−1.
        grades: [Q, K] int64, or float32 where grades are real numbers. Not called `labels`: of a batch that has those,
            HF Trainer assumes that the loss is already normalised over the accumulated batch.
        mask: [Q, K] bool, True = a real passage. A shorter group is padded with empty passages of grade 0.
    """

    tokenizer: Any
    max_length: int
    width: int | None = None  # given where batches of several processes must fit together

    def __call__(self, groups: Sequence[Group]) -> dict[str, Any]:
        width = self.width or max(len(group.passages) for group in groups)
        passages: list[str] = []
        for group in groups:
            passages += [*group.passages, *[""] * (width - len(group.passages))]
        real = any(isinstance(grade, float) for group in groups for grade in group.grades)
        grades = torch.zeros(len(groups), width, dtype=torch.float32 if real else torch.int64)
        mask = torch.zeros(len(groups), width, dtype=torch.bool)
        for row, group in enumerate(groups):
            grades[row, : len(group.grades)] = torch.tensor(group.grades)
            mask[row, : len(group.grades)] = True
        return {
            "queries": self._tokenize([group.query for group in groups]),
            "passages": self._tokenize(passages),
            "grades": grades,
            "mask": mask,
        }

    def _tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        return dict(
            self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        )
