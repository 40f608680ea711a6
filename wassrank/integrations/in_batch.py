"""Batches that several processes share, where the framework gathers passages itself."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from wassrank.processes.group import everyones, present


def processes() -> int:
    return dist.get_world_size() if present() else 1


def gathered(local: Tensor) -> Tensor:
    """All processes' rows, equally many of each, without gradient."""
    return everyones(local, [len(local)] * processes(), None)


def among_all(
    scores: Tensor,  # [q, processes·q·K]: this process's queries over all passages, query-major
    grades: Tensor,  # [q, K]
) -> tuple[Tensor, Tensor]:  # [processes·q, processes·q·K], [processes·q, K]
    """As the losses of scores take them, each query at its own passages: a row for every query of the batch. Those of
    other processes are impossible all along (−inf), so they are empty and no mean counts them."""
    rank = dist.get_rank()
    before, after = (len(scores) * n for n in (rank, processes() - 1 - rank))
    return pad(scores, (0, 0, before, after), value=-torch.inf), pad(grades, (0, 0, before, after))


def summed(loss: Tensor) -> Tensor:
    """A loss whose gradients are to be summed over processes, as DistributedDataParallel, which takes their mean, needs
    it: gradients are multiplied by the number of processes, the value is not."""
    return loss.detach() + (loss - loss.detach()) * processes()
