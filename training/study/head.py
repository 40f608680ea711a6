"""The head: a linear change of frozen embeddings, x + A x, the same for queries and passages, that starts at A = 0.

The encoder runs once; what is trained is a matrix, so that a run takes a second and a study thousands of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.groups import GradedGroups
from training.trainer import score


@dataclass(frozen=True)
class Frozen:
    """Embeddings that the encoder gives before it is trained."""

    queries: Tensor  # [n, d], in the order of the split
    passages: Tensor  # [N, d], in the order of the corpus
    normalize: bool  # scores are cosines


@dataclass(frozen=True)
class Batch:
    queries: Tensor  # [Q], rows of Frozen.queries
    passages: Tensor  # [Q·K], rows of Frozen.passages, query-major; row 0 where there is none
    grades: Tensor  # [Q, K]
    mask: Tensor  # [Q, K], False = there is none


class Head(nn.Module):
    def __init__(self, dimensions: int, normalize: bool) -> None:
        super().__init__()
        self.change = nn.Linear(dimensions, dimensions, bias=False)
        nn.init.zeros_(self.change.weight)
        self.normalize = normalize

    def forward(self, embeddings: Tensor) -> Tensor:
        changed: Tensor = embeddings + self.change(embeddings)
        return nn.functional.normalize(changed, dim=-1) if self.normalize else changed


def draw(groups: GradedGroups, places: Sequence[int], batch_size: int, epochs: int, seed: int) -> list[list[Batch]]:
    """The batches of each epoch over the queries at `places`: drawn once, for every loss and setting the same.

    A last batch that is not full is left out, as the trainer does; fewer queries than one batch are one batch.
    """
    rng = random.Random(seed)
    drawn = []
    for epoch in range(epochs):
        groups.set_epoch(epoch)
        order = rng.sample(places, len(places))
        size = min(batch_size, len(order))
        drawn.append([_batch(groups, order[first : first + size]) for first in range(0, len(order) - size + 1, size)])
    return drawn


def _batch(groups: GradedGroups, places: Sequence[int]) -> Batch:
    passages = torch.zeros(len(places), groups.size, dtype=torch.int64)
    grades = torch.zeros_like(passages)
    mask = torch.zeros(passages.shape, dtype=torch.bool)
    for row, place in enumerate(places):
        for column, ((_, position), grade) in enumerate(groups.drawn(place)):
            passages[row, column], grades[row, column], mask[row, column] = position, int(grade), True
    return Batch(torch.tensor(places), passages.flatten(), grades, mask)


def train(
    frozen: Frozen, loss: nn.Module, in_batch: bool, epochs: Sequence[Sequence[Batch]], learning_rate: float
) -> Iterator[Head]:
    """The head after each epoch, the same object every time."""
    head = Head(frozen.passages.shape[1], frozen.normalize)
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.0)
    for batches in epochs:
        for batch in batches:
            scores = score(head(frozen.queries[batch.queries]), head(frozen.passages[batch.passages]), in_batch)
            optimizer.zero_grad()
            loss(scores, batch.grades, mask=batch.mask).backward()
            optimizer.step()
        yield head
