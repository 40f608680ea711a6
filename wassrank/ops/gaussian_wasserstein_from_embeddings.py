"""The operators `wassrank::gaussian_wasserstein_from_embeddings[_backward]`: what `wassrank::gaussian_wasserstein` is
for scores, for what scores are made of; wassrank/embeddings/gaussian.py says how.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wassrank.embeddings.gaussian import ChunkedPasses, Embeddings, Gradients
from wassrank.gaussian import distance, passes
from wassrank.gaussian.distance import Kept, kept_shapes
from wassrank.gaussian.passes import Passes
from wassrank.gaussian.plain_passes import PlainPasses
from wassrank.processes.passages import Here, Passages
from wassrank.processes.world import Alone, World
from wassrank.reference.rows import compute_dtype

from . import inputs
from .gaussian_wasserstein import PASSES
from .inputs import contiguous
from .registration import register


class Arguments(NamedTuple):
    """Of the operator, in order; all tensors are contiguous."""

    queries: Tensor  # [q, d]
    passages: Tensor  # [n, d], of the queries' dtype
    learned: Tensor | None  # [] of C: the temperature, in place of `temperature`
    labels: Tensor  # [q, N] or [q, K]
    target: Tensor | None  # float64, [q, N] or [q, K]
    mask: Tensor | None  # bool, [q, N] or, one flag a passage for every row, [N]
    label_temperatures: Tensor | None  # [q] float64, in place of label_temperature
    exclude: Tensor | None  # bool [q, N], or int64 pairs (row, passage) [M, 2]
    cosine: bool
    chunk_rows: int
    target_kind: int
    in_batch: float | None
    num_levels: int | None
    temperature: float
    label_temperature: float
    diagonal: bool
    eps: float

    def of_scores(self, total: int) -> passes.Arguments:
        """As `wassrank::gaussian_wasserstein` would have them, of scores that are a shape and no numbers."""
        C = compute_dtype(self.queries.dtype)
        return passes.Arguments(
            self.queries.new_empty((), dtype=C).expand(len(self.queries), total),
            self.labels,
            self.target,
            self.mask,
            self.label_temperatures,
            self.target_kind,
            self.in_batch,
            self.num_levels,
            self.temperature,
            self.label_temperature,
            self.diagonal,
            self.eps,
        )


TENSORS, LEAVES = 8, 3


def fused(
    queries: Tensor,
    passages: Tensor,
    labels: Tensor,
    *,
    backend: str,
    shared: tuple[World, Callable[[Tensor], Passages], int] | None,
    similarity: str,
    exclude: Tensor | None,
    tile: tuple[int, int] | None,
    temperature: float | Tensor,
    label_temperature: float | Tensor,
    target: str | Tensor,
    mask: Tensor | None,
    in_batch: float | None,
    num_levels: int | None,
    covariance: str,
    eps: float,
) -> Tensor:
    """The distance, of arguments already checked. `shared`: the processes that share the batch, what leads from the
    passages that a process has to all of them, and the most queries any of them has."""
    given, target_kind = inputs.given_target(target, torch.float64)
    temperatures, label_temperature = inputs.temperatures(label_temperature, torch.float64)
    learned = temperature if isinstance(temperature, Tensor) else None
    a = Arguments(
        queries.contiguous(),
        passages.contiguous(),
        contiguous(learned, compute_dtype(queries.dtype)),
        labels.contiguous(),
        given,
        contiguous(mask),
        temperatures,
        contiguous(exclude),
        similarity == "cosine",
        tile[0] if tile else 0,
        target_kind,
        None if in_batch is None else float(in_batch),
        num_levels,
        1.0 if isinstance(temperature, Tensor) else temperature,
        label_temperature,
        covariance == "diagonal",
        eps,
    )
    if shared is None and backend != "torch":
        loss: Tensor = _OPERATORS[backend](*a)
    else:
        world = shared or (Alone(exclude is not None), Here, len(queries))
        loss = _NoOperator.apply(*a[:LEAVES], a[LEAVES:], backend, *world)  # type: ignore[no-untyped-call]
    return loss


def _plain(a: passes.Arguments, first: int) -> Passes:
    return PlainPasses(a, first)


_PASSES = PASSES | {"torch": _plain}


def _chunked(backend: str, a: Arguments, passages: Passages, most: int, world: World) -> ChunkedPasses:
    e = Embeddings(a.queries, a.passages, passages, a.learned, a.exclude, a.cosine, a.chunk_rows, most)
    return ChunkedPasses(a.of_scores(passages.total), world, e, _PASSES[backend])


def _distance(backend: str, a: Arguments, passages: Passages, most: int, world: World) -> tuple[Tensor, Kept]:
    with torch.cuda.device_of(a.queries):
        chunked = _chunked(backend, a, passages, most, world)
        return distance.forward(chunked, a.of_scores(passages.total), world)


def _gradients(
    backend: str, a: Arguments, passages: Passages, most: int, world: World, kept: Kept, grad_loss: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.cuda.device_of(a.queries):
        chunked = _chunked(backend, a, passages, most, world)
        out = Gradients(chunked.embeddings)
        distance.backward(chunked, a.of_scores(passages.total), kept, grad_loss, out, world)
        return chunked.finished(out)


class _NoOperator(torch.autograd.Function):
    """For a group of processes, which is nothing to trace, and for plain torch."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        passages: Tensor,
        learned: Tensor | None,
        rest: tuple[Any, ...],
        backend: str,
        world: World,
        everyones: Callable[[Tensor], Passages],
        most: int,
    ) -> Tensor:
        a = Arguments(queries, passages, learned, *rest)
        loss, kept = _distance(backend, a, everyones(a.passages), most, world)
        ctx.save_for_backward(*a[:TENSORS], *kept)
        ctx.rest = a[TENSORS:], backend, world, everyones, most
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        options, backend, world, everyones, most = ctx.rest
        saved = ctx.saved_tensors
        a = Arguments(*saved[:TENSORS], *options)
        kept = Kept(*saved[TENSORS:])
        q, p, t = _gradients(backend, a, everyones(a.passages), most, world, kept, grad_loss)
        return q, p, None if a.learned is None else t, None, None, None, None, None


def _fake(*arguments: Any) -> tuple[Tensor, ...]:
    a = Arguments(*arguments)
    shapes = kept_shapes(a.of_scores(a.passages.shape[0]))
    *floats, flag = (a.queries.new_empty(shape, dtype=torch.float64) for shape in shapes)
    return a.queries.new_empty((), dtype=compute_dtype(a.queries.dtype)), *floats, flag.to(torch.bool)


def _backward_fake(grad_loss: Tensor, queries: Tensor, passages: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    scalar = queries.new_empty((), dtype=compute_dtype(queries.dtype))
    return torch.empty_like(queries), torch.empty_like(passages), scalar


def _save(ctx: Any, queries: Tensor, passages: Tensor, learned: Tensor | None, rest: Any, output: Any) -> None:
    a = Arguments(queries, passages, learned, *rest)
    ctx.save_for_backward(*a[:TENSORS], *output[1:])
    ctx.options = a[TENSORS:]


def _backward(backward_op: Any, ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
    q, p, t = backward_op(grad_loss.contiguous(), *ctx.saved_tensors, *ctx.options)
    return q, p, None if ctx.saved_tensors[2] is None else t


def _forward_kernel(backend: str, *arguments: Any) -> tuple[Tensor, ...]:
    a = Arguments(*arguments)
    loss, kept = _distance(backend, a, Here(a.passages), len(a.queries), Alone(a.exclude is not None))
    return loss, *kept


def _backward_kernel(backend: str, grad_loss: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    split = TENSORS + len(Kept._fields)
    a, kept = Arguments(*rest[:TENSORS], *rest[split:]), Kept(*rest[TENSORS:split])
    world = Alone(a.exclude is not None)
    return _gradients(backend, a, Here(a.passages), len(a.queries), world, kept, grad_loss)


_ASKED = (
    "Tensor queries, Tensor passages, Tensor? learned, Tensor labels, Tensor? target, Tensor? mask, "
    "Tensor? label_temperatures, Tensor? exclude"
)
_HOW = (
    "bool cosine, int chunk_rows, int target_kind, float? in_batch, int? num_levels, float temperature, "
    "float label_temperature, bool diagonal, float eps"
)
_KEPT = ", ".join(f"Tensor {name}" for name in Kept._fields)
_OPERATORS = register(
    "gaussian_wasserstein_from_embeddings",
    schema=f"({_ASKED}, {_HOW}) -> (Tensor loss, {_KEPT})",
    fake=_fake,
    backward_schema=(
        f"(Tensor grad_loss, {_ASKED}, {_KEPT}, {_HOW}) -> (Tensor queries, Tensor passages, Tensor learned)"
    ),
    backward_fake=_backward_fake,
    save=_save,
    backward=_backward,
    leaves=LEAVES,
    kernels={
        backend: (functools.partial(_forward_kernel, backend), functools.partial(_backward_kernel, backend))
        for backend in PASSES
    },
)
