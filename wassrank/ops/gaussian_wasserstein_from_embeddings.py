"""The operators `wassrank::gaussian_wasserstein_from_embeddings[_backward]`: what `wassrank::gaussian_wasserstein` is
for scores, for what scores are made of; wassrank/embeddings/gaussian.py says how.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wassrank.embeddings.gaussian import ChunkedPasses, Embeddings
from wassrank.gaussian import distance, passes
from wassrank.gaussian.distance import Kept, kept_shapes
from wassrank.gaussian.passes import Passes
from wassrank.gaussian.plain_passes import PlainPasses
from wassrank.processes.passages import Here, Passages
from wassrank.processes.world import Alone, World
from wassrank.reference.rows import compute_dtype

from . import inputs, of_embeddings
from .gaussian_wasserstein import PASSES
from .inputs import contiguous
from .of_embeddings import LEAVES, Eager, Gradients
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


TENSORS = 8
"""Of the arguments, the first."""


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
        return loss
    world = shared or (Alone(exclude is not None), Here, len(queries))
    return Eager(Arguments, TENSORS, *_steps(backend, *world)).loss(a)


def _plain(a: passes.Arguments, first: int) -> Passes:
    return PlainPasses(a, first)


_PASSES = PASSES | {"torch": _plain}


def _chunked(backend: str, a: Arguments, passages: Passages, most: int, world: World) -> ChunkedPasses:
    e = Embeddings(a.queries, a.passages, passages, a.learned, a.exclude, a.cosine, a.chunk_rows, most)
    return ChunkedPasses(a.of_scores(passages.total), world, e, _PASSES[backend])


def _steps(
    backend: str, world: World, everyones: Callable[[Tensor], Passages], most: int
) -> tuple[Callable[[Arguments], tuple[Tensor, ...]], Callable[..., Gradients]]:
    """Forward and backward of processes of which none has more than `most` queries."""

    def forward(a: Arguments) -> tuple[Tensor, ...]:
        with torch.cuda.device_of(a.queries):
            chunked = _chunked(backend, a, everyones(a.passages), most, world)
            loss, kept = distance.forward(chunked, chunked.of_scores, world)
            return loss, *kept

    def backward(a: Arguments, grad_loss: Tensor, *kept: Tensor) -> Gradients:
        with torch.cuda.device_of(a.queries):
            chunked = _chunked(backend, a, everyones(a.passages), most, world)
            of_queries = torch.zeros_like(a.queries, dtype=compute_dtype(a.queries.dtype))
            distance.backward(chunked, chunked.of_scores, Kept(*kept), grad_loss, of_queries, world)
            return chunked.finished(of_queries)

    return forward, backward


def _fake(*arguments: Any) -> tuple[Tensor, ...]:
    a = Arguments(*arguments)
    shapes = kept_shapes(a.of_scores(a.passages.shape[0]))
    *floats, flag = (a.queries.new_empty(shape, dtype=torch.float64) for shape in shapes)
    return a.queries.new_empty((), dtype=compute_dtype(a.queries.dtype)), *floats, flag.to(torch.bool)


def _alone(backend: str, a: Arguments) -> tuple[Callable[..., tuple[Tensor, ...]], Callable[..., Gradients]]:
    return _steps(backend, Alone(a.exclude is not None), Here, len(a.queries))


def _forward_kernel(backend: str, *arguments: Any) -> tuple[Tensor, ...]:
    a = Arguments(*arguments)
    return _alone(backend, a)[0](a)


def _backward_kernel(backend: str, grad_loss: Tensor, *rest: Any) -> Gradients:
    split = TENSORS + len(Kept._fields)
    a = Arguments(*rest[:TENSORS], *rest[split:])
    return _alone(backend, a)[1](a, grad_loss, *rest[TENSORS:split])


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
    backward_fake=of_embeddings.backward_fake,
    save=of_embeddings.saver(TENSORS),
    backward=of_embeddings.backward,
    leaves=LEAVES,
    kernels={
        backend: (functools.partial(_forward_kernel, backend), functools.partial(_backward_kernel, backend))
        for backend in PASSES
    },
)
