"""Batches that several processes share, where the framework gathers passages itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def among_all(
    scores: Tensor,  # [q, processes·q·K]: this process's queries over all passages, query-major
    grades: Tensor,  # [q, K]
    rank: int,
    processes: int,
) -> tuple[Tensor, Tensor]:  # [processes·q, processes·q·K], [processes·q, K]
    """As the losses of scores take them, each query at its own passages: a row for every query of the batch. Those of
    other processes are impossible all along (−inf), so they are empty and no mean counts them."""
    before, after = (len(scores) * n for n in (rank, processes - 1 - rank))
    return pad(scores, (0, 0, before, after), value=-torch.inf), pad(grades, (0, 0, before, after))


def whole_batch(loss: Tensor, processes: int) -> Tensor:
    """The loss of all processes' rows, the same on each, as DistributedDataParallel needs it: gradients are to be
    summed and it takes their mean, so they are multiplied by the number of processes, the value is not."""
    return loss.detach() + (loss - loss.detach()) * processes
