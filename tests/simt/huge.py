"""Batches with more elements than 32 bits count, of which only the end is there (see driver.h): an index that is
computed in 32 bits anywhere lands elsewhere, mostly outside of all memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import wassrank
from wassrank.arguments import Arguments, SortedArguments
from wassrank.codes import EXCLUDED, Reduction, Target

from .driver import Call


@dataclass(frozen=True)
class Huge:
    call: Call
    loss: Tensor
    gradient: Tensor  # the shape of call.scores
    written: int  # elements of it, at least, that the blocks in the grids' corners write


def _reference(scores: Tensor, labels: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    scores = scores.double().requires_grad_()
    loss = wassrank.combined_loss(scores, labels, **{"target": "softmax", "backend": "torch"} | options)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    return loss.detach(), gradient


def _call(scores: Tensor, labels: Tensor, size: tuple[int, int, int], **options: Any) -> Call:
    of_call: dict[str, Any] = {"grad_loss": torch.tensor(1.0), "tuning": {}}
    of_call |= {name: options.pop(name) for name in of_call.keys() & options}
    arguments = Arguments(scores, labels, **{"reduction": Reduction.sum, "num_levels": 4} | options)
    return Call(arguments, size=size, **of_call)


def _numbers(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(sum(name.encode()))


def many_short_rows() -> Huge:
    """Several rows a block, the last block not full; sums over all rows. Those that are not there have no gain."""
    generator, N = _numbers("short"), 100
    scores, labels = torch.randn(3, N, generator=generator), torch.randint(0, 4, (3, N), generator=generator).byte()
    options: dict[str, Any] = {"target_kind": Target.linear, "reduction": Reduction.mean}
    call = _call(scores, labels, (2**26 + 3, N, N), **options)
    return Huge(call, *_reference(scores, labels, target="linear"), written=3 * N)


def many_long_rows() -> Huge:
    """A block a row, and every array that may be [Q, N]. Rows that are not there are masked."""
    generator, N = _numbers("long"), 2100
    scores, labels = torch.randn(1, N, generator=generator).half(), torch.randint(0, 4, (1, N), generator=generator)
    given: dict[str, Any] = {
        "target": torch.rand(1, N, generator=generator),
        "mask": torch.rand(1, N, generator=generator) < 0.7,
        "weight": torch.tensor([1.5]),
    }
    call = _call(scores, labels, (2**21 + 1, N, N), **given, target_kind=Target.given, p=2.0)
    return Huge(call, *_reference(scores, labels, **given, p=2, reduction="sum"), written=N)


def many_in_batch() -> Huge:
    """Other queries' passages left of the last row's own: the first and the last chunk of the backward."""
    generator, Q, K = _numbers("in-batch"), 8200, 40
    N = Q * K
    scores, labels = torch.randn(1, N, generator=generator), torch.randint(0, 4, (1, K), generator=generator).short()
    mask = torch.rand(Q, K, generator=generator) < 0.7
    dense = torch.cat([torch.ones(1, N - K, dtype=torch.int64), labels], dim=1)
    options: dict[str, Any] = {"mask": mask, "in_batch": 1, "reduction": Reduction.none, "grad_loss": torch.ones(1)}
    call = _call(scores, labels, (Q, N, K), **options)
    wanted = _reference(scores, dense, mask=mask.reshape(1, -1), reduction="none")
    return Huge(call, *wanted, written=512 * 4 + K)


def wide_rows() -> Huge:
    """Rows of nearly 2^30 columns, 2^40 in all. Only own passages count, so the forward is short; the backward's last
    chunk is in its 63rd stride over the row when it comes to the end of the tensors."""
    generator, Q, K, before = _numbers("wide"), 1024, 1_033_200, 1 << 14
    scores = torch.randn(1, before + K, generator=generator)
    labels = torch.randint(0, 4, (1, K), generator=generator).byte()
    call = _call(scores, labels, (Q, Q * K, K), in_batch=EXCLUDED, tuning={"backward_threads": 32})
    loss, own = _reference(scores[:, before:], labels)
    wanted = torch.cat([torch.zeros(1, before), own], dim=1)
    return Huge(call, loss, wanted, written=2 * 64 * 4)


def packed_lists() -> Huge:
    """An empty list, one that is not there, and the last, whose own chunks do not reach its end; all losses."""
    generator, last = _numbers("packed"), 3001
    scores, labels = torch.randn(last, generator=generator), torch.randint(0, 4, (last,), generator=generator).byte()
    begin = 2**32 + 5
    offsets, size = torch.tensor([0, 0, begin, begin + last]), (3, begin + last, begin + last)
    options: dict[str, Any] = {
        "target": torch.rand(last, generator=generator),
        "mask": torch.rand(last, generator=generator) < 0.7,
        "positives": torch.tensor([2999]),
        "info_nce": 0.5,
        "kl": 0.75,
    }
    call = _call(scores, labels, size, **options, offsets=offsets, target_kind=Target.given)
    wanted = _reference(scores, labels, **options, offsets=torch.tensor([0, last]), reduction="sum")
    return Huge(call, *wanted, written=512 * 4)


def _sorted_call(scores: Tensor, labels: Tensor, size: tuple[int, int, int], **options: Any) -> Call:
    order = wassrank.grade_order(labels.reshape(1, -1)).reshape(labels.shape)
    arguments = SortedArguments(scores, labels, order, **{"reduction": Reduction.sum} | options)
    return Call(arguments, size=size, grad_loss=torch.tensor(1.0))


def many_float_rows() -> Huge:
    """A block a row. Rows that are not there are masked."""
    generator, N = _numbers("floats"), 2100
    scores, labels = torch.randn(1, N, generator=generator).bfloat16(), torch.randn(1, N, generator=generator)
    given: dict[str, Any] = {"mask": torch.rand(1, N, generator=generator) < 0.7, "info_nce": 0.5, "kl": 0.75}
    call = _sorted_call(scores, labels, (2**20 + 1, N, N), **given)
    return Huge(call, *_reference(scores, labels, **given, reduction="sum"), written=N)


def packed_floats() -> Huge:
    """The last list, whose points are in the workspace, behind as many as would fill 32 bits."""
    generator, last = _numbers("packed floats"), 3001
    scores, labels = torch.randn(last, generator=generator), torch.randn(last, generator=generator)
    begin = 2**32 + 5
    offsets, size = torch.tensor([0, 0, begin, begin + last]), (3, begin + last, begin + last)
    options: dict[str, Any] = {"mask": torch.rand(last, generator=generator) < 0.7, "p": 2.0, "kl": 0.75}
    call = _sorted_call(scores, labels, size, **options, offsets=offsets)
    wanted = _reference(scores, labels, **options, offsets=torch.tensor([0, last]), reduction="sum")
    return Huge(call, *wanted, written=512 * 4)


HUGE = [many_short_rows, many_long_rows, many_in_batch, wide_rows, packed_lists, many_float_rows, packed_floats]
