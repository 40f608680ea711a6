"""A batch whose rows are shared out among the processes of a torch.distributed group."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:  # torch may be built without
    Shared = dist.ProcessGroup | None
    """A group; None: all processes."""
else:
    Shared = Any


def present() -> bool:
    """Whether there are other processes to share a batch with."""
    return dist.is_available() and dist.is_initialized()


class Group:
    """A `wassrank.gaussian.world.World`. Every process calls the same methods in the same order."""

    def __init__(self, group: Shared, counts: list[int], rank: int) -> None:
        self.group, self.counts = group, counts  # rows of each process
        self.first = sum(counts[:rank])

    def sum(self, local: Tensor) -> Tensor:
        dist.all_reduce(local, group=self.group)
        return local

    def any(self, local: Tensor) -> Tensor:
        flag = local.to(torch.int32)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.group)
        return flag.bool()

    def checked(self, run: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
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
        # Collectives want the same size of everyone.
        most = max(self.counts)
        mine = local.new_zeros(most, *local.shape[1:])
        mine[: len(local)] = local
        everyones = [torch.empty_like(mine) for _ in self.counts]
        dist.all_gather(everyones, mine, group=self.group)
        return torch.cat([rows[:count] for rows, count in zip(everyones, self.counts, strict=True)])


def agree(
    group: Shared,
    check: Callable[[], object],  # raises if this process's own arguments are wrong
    facts: Callable[
        [], tuple[Tensor, Tensor, Any]
    ],  # scores [q, N], labels [q, K] or [q, N], and what must be the same
    device: torch.device,
) -> Group:
    """Makes sure that all processes bring parts of one batch, and that all of them raise if one does not: a process
    that left alone would let the others wait for it.

    Raises:
        What `check` raises; ValueError in the other processes, and in all of them where shapes do not fit together."""
    mine, error = [0, 0, 0, 0, 0], None
    try:
        check()
        scores, labels, same = facts()
        mine = [1, len(scores), scores.shape[1], labels.shape[1], zlib.crc32(repr(same).encode())]
    except Exception as wrong:  # whatever it is, the others must hear of it first
        error = wrong
    told = torch.tensor(mine, device=device)
    everyones = [torch.empty_like(told) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyones, told, group=group)
    if error is not None:
        raise error
    said = [rank.tolist() for rank in everyones]
    for rank, (fine, *_) in enumerate(said):
        if not fine:
            raise ValueError(f"gather=True: process {rank} of the group refused its arguments; its own error says why")
    shapes = ", ".join(f"[{q}, {N}] with [{q}, {K}]" for _, q, N, K, _ in said)
    Q = sum(q for _, q, *_ in said)
    for (_, _, N, K, same_a), (_, _, M, L, same_b) in itertools.pairwise(said):
        if (N, K) != (M, L):
            raise ValueError(
                f"gather=True: every process must score the same N passages and label the same K a query; processes "
                f"hold scores with labels {shapes}"
            )
        if same_a != same_b:
            raise ValueError(
                "gather=True: processes were given different options: temperatures, target, in_batch, num_levels, "
                "covariance, eps, and whether there are mask and label dtypes must be the same on all of them"
            )
    _, _, N, K, _ = said[0]
    if N not in (K, Q * K):
        raise ValueError(
            f"gather=True: {Q} queries in all with K={K} labelled passages each need scores of Q*K={Q * K} columns, "
            f"query-major over the whole batch, or labels of all N passages; processes hold scores with labels {shapes}"
        )
    return Group(group, [q for _, q, *_ in said], dist.get_rank(group))
