"""Where a process finds the batch's passages, and what it does with their gradients.

A sweep over all scores goes through the passages block by block (`tour`), and where gradients are wanted hands in each
block's as it goes (`tour_back`). A block is what lies in one place at a time: for a process that has all, all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from .group import Group, Shared, everyones


class Block(NamedTuple):
    """Passages begin … begin + len(passages) − 1 of the batch."""

    begin: int
    passages: Tensor  # [n, d]
    gradient: Tensor | None = None  # [n, d], on the way back
    complete: bool = True  # whether this process's queries are all there are: else gradients are added up

    def hand_in(self, begin: int, end: int, gradient: Tensor) -> None:
        """The gradient for passages begin … end − 1 of the block, from all of this process's queries."""
        assert self.gradient is not None
        there = self.gradient[begin:end]
        if self.complete:
            there.copy_(gradient)
        else:
            there += gradient


class Passages(Protocol):
    total: int  # N

    def tour(self) -> Iterator[Block]: ...

    def tour_back(self, dtype: torch.dtype, *, only: bool = True) -> Iterator[Block]:
        """With gradients, computed in `dtype`. `only`: there is no other tour back, whose gradients are added to."""
        ...

    def gradient(self) -> Tensor:
        """After the last tour back: this process's own passages', in whichever dtype it was summed; 0 where there was
        no tour."""
        ...


class Here:
    """All of the batch's passages are this process's."""

    def __init__(self, passages: Tensor) -> None:
        self._passages = passages
        self._gradient: Tensor | None = None
        self.total = len(passages)

    def tour(self) -> Iterator[Block]:
        yield Block(0, self._passages)

    def tour_back(self, dtype: torch.dtype, *, only: bool = True) -> Iterator[Block]:
        if only:  # straight to where they belong
            self._gradient = torch.empty_like(self._passages)
        elif self._gradient is None:
            self._gradient = torch.zeros_like(self._passages, dtype=dtype)
        yield Block(0, self._passages, self._gradient, complete=only)

    def gradient(self) -> Tensor:
        return torch.zeros_like(self._passages) if self._gradient is None else self._gradient


class Gathered:
    """Every process gathers all passages: N·d numbers, and as many for their gradients on the way back."""

    def __init__(self, group: Group, own: Tensor, sizes: Sequence[int]) -> None:
        self._group, self._own, self._sizes = group, own, sizes
        self.total = sum(sizes)
        self._all: Tensor | None = None
        self._gradient: Tensor | None = None

    def tour(self) -> Iterator[Block]:
        if self._all is None:
            self._all = everyones(self._own, self._sizes, self._group.group)
        yield Block(0, self._all)

    def tour_back(self, dtype: torch.dtype, *, only: bool = True) -> Iterator[Block]:
        for begin, passages, *_ in self.tour():
            if self._gradient is None:
                self._gradient = torch.zeros_like(passages, dtype=dtype)
            yield Block(begin, passages, self._gradient, complete=False)

    def gradient(self) -> Tensor:
        if self._gradient is None:  # in all processes
            return torch.zeros_like(self._own)
        begin = sum(self._sizes[: self._group.rank])
        return self._group.sum(self._gradient)[begin : begin + len(self._own)]


class Ring:
    """Blocks of passages go round: each process hands the block it has just used, and on the way back the gradients
    gathered for it so far, to the next. The next block travels while this one is computed with. Two blocks a process;
    after as many steps as there are processes a block, with its gradients, is where it came from."""

    def __init__(self, group: Group, own: Tensor, sizes: Sequence[int]) -> None:
        self._group, self._own, self._sizes = group, own, sizes
        self.total = sum(sizes)
        self._gradient: Tensor | None = None

    def tour(self) -> Iterator[Block]:
        passages, world = self._own, len(self._sizes)
        for step in range(world):
            owner = (self._group.rank - step) % world
            coming = self._exchange(passages, owner) if step + 1 < world else None
            yield Block(self._begin(owner), passages)
            if coming is not None:
                passages = coming()

    def tour_back(self, dtype: torch.dtype, *, only: bool = True) -> Iterator[Block]:
        passages, world = self._own, len(self._sizes)
        gradient = torch.zeros_like(passages, dtype=dtype)
        for step in range(world):
            owner = (self._group.rank - step) % world
            coming = self._exchange(passages, owner) if step + 1 < world else None
            yield Block(self._begin(owner), passages, gradient, complete=False)
            if world > 1:
                gradient = self._exchange(gradient, owner)()
            if coming is not None:
                passages = coming()
        self._gradient = gradient if self._gradient is None else self._gradient + gradient

    def gradient(self) -> Tensor:
        return torch.zeros_like(self._own) if self._gradient is None else self._gradient

    def _begin(self, owner: int) -> int:
        return sum(self._sizes[:owner])

    def _exchange(self, block: Tensor, owner: int) -> Callable[[], Tensor]:
        """Hands on what is `owner`'s and takes what the process before this one has; a call waits for it."""
        world, rank = len(self._sizes), self._group.rank
        coming = block.new_empty(self._sizes[(owner - 1) % world], *block.shape[1:])
        group = self._group.group
        to, of = (_global_rank(group, (rank + step) % world) for step in (1, -1))
        operations = [dist.P2POp(dist.isend, block, to, group), dist.P2POp(dist.irecv, coming, of, group)]
        under_way = dist.batch_isend_irecv(operations)

        def wait() -> Tensor:
            for work in under_way:
                work.wait()
            return coming

        return wait


def _global_rank(group: Shared, rank: int) -> int:
    return rank if group is None else dist.get_global_rank(group, rank)
