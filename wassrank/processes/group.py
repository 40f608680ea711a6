"""A batch whose rows are shared out among the processes of a torch.distributed group."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from .world import Found

if TYPE_CHECKING:  # torch may be built without
    Shared = dist.ProcessGroup | None
    """A group; None: all processes."""
else:
    Shared = Any


def present() -> bool:
    """Whether there are other processes to share a batch with."""
    return dist.is_available() and dist.is_initialized()


class Group:
    """A `wassrank.processes.world.World`. Every process calls the same methods in the same order."""

    asks = True

    def __init__(self, group: Shared, counts: Sequence[int]) -> None:
        self.group, self.counts = group, list(counts)  # rows of each process
        self.rank = dist.get_rank(group)
        self.first = sum(self.counts[: self.rank])

    def sum(self, local: Tensor) -> Tensor:
        dist.all_reduce(local, group=self.group)
        return local

    def any(self, local: Tensor) -> Tensor:
        flag = local.to(torch.int32)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.group)
        return flag.bool()

    def checked(self, run: Callable[[], Found]) -> Found:
        error, outputs = None, None
        try:
            outputs = run()
        except ValueError as wrong:
            error = wrong
        if outputs is None or outputs[0].is_cpu:  # elsewhere nobody raises
            failed = self.any(torch.tensor(error is not None))
            if error is not None:
                raise error
            if failed:
                raise ValueError("gather=True: another process of the group refused its labels; its error says why")
        assert outputs is not None
        return outputs

    def rows(self, local: Tensor) -> Tensor:
        return everyones(local, self.counts, self.group)


def everyones(local: Tensor, counts: Sequence[int], group: Shared) -> Tensor:
    """All processes' rows, `counts` of them, one below the other, [Σ counts, …]."""
    # Collectives want the same size of everyone.
    most = max(counts)
    mine = local.new_zeros(most, *local.shape[1:])
    mine[: len(local)] = local
    gathered = [torch.empty_like(mine) for _ in counts]
    dist.all_gather(gathered, mine, group=group)
    return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])


def told(
    group: Shared,
    check: Callable[[], object],  # raises if this process's own arguments are wrong
    facts: Callable[[], tuple[Sequence[int], Any]],  # a few numbers, and what must be the same everywhere
    device: torch.device,
) -> tuple[list[list[int]], bool]:
    """Every process's numbers, and whether the rest is the same on all. A process that left alone, its arguments being
    wrong, would let the others wait for it: so all of them raise if one does.

    Raises:
        What `check` raises; in the other processes ValueError.
    """
    mine, error = None, None
    try:
        check()
        numbers, same = facts()
        mine = [1, zlib.crc32(repr(same).encode()), *numbers]
    except Exception as wrong:  # whatever it is, the others must hear of it first
        error = wrong
    sent = torch.zeros(MOST_FACTS, dtype=torch.int64, device=device)
    if mine is not None:
        sent[: len(mine)] = torch.tensor(mine, device=device)
    answers = [torch.empty_like(sent) for _ in range(dist.get_world_size(group))]
    dist.all_gather(answers, sent, group=group)
    if error is not None:
        raise error
    said = torch.stack(answers).tolist()
    for rank, (fine, *_) in enumerate(said):
        if not fine:
            raise ValueError(f"gather=True: process {rank} of the group refused its arguments; its own error says why")
    assert mine is not None
    return [numbers[2 : len(mine)] for numbers in said], len({numbers[1] for numbers in said}) == 1


MOST_FACTS = 8


def check_same(same: bool, options: str) -> None:
    if not same:
        raise ValueError(
            f"gather=True: processes were given different options: {options} must be the same on all of them"
        )
