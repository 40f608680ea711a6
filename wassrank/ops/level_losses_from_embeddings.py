"""The operators `wassrank::level_losses_from_embeddings[_backward]`: the weighted sums of row losses that
`wassrank::level_losses` gives for scores, for what scores are made of; wassrank/embeddings says how.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wassrank.codes import EXCLUDED, Reduction
from wassrank.embeddings import tiles
from wassrank.embeddings.arguments import TENSORS, Arguments
from wassrank.embeddings.native_tiles import NativeTiles
from wassrank.embeddings.plain_tiles import PlainTiles
from wassrank.processes.passages import Here, Passages
from wassrank.processes.world import Alone, World
from wassrank.reference import Terms
from wassrank.reference.rows import compute_dtype

from . import inputs, of_embeddings
from .inputs import contiguous
from .of_embeddings import LEAVES, Eager, Gradients
from .registration import register
from .work import Work

OPTIONS = Arguments._fields[TENSORS:]


def fused(
    queries: Tensor,
    passages: Tensor,
    labels: Tensor,
    terms: Terms,
    *,
    backend: str,
    shared: tuple[World, Callable[[Tensor], Passages]] | None,
    similarity: str,
    exclude: Tensor | None,
    tile: tuple[int, int] | None,
    p: float,
    temperature: float | Tensor,
    label_temperature: float | Tensor,
    target: str | Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    in_batch: int | None,
    num_levels: int,
    position: Tensor | None,
    positives: Tensor | None,
    reduction: str,
) -> Tensor:
    """The losses, of arguments already checked. `shared`: the processes that share the batch, and where the passages
    that a process has lead it to all of them."""
    C = compute_dtype(queries.dtype)
    given, target_kind = inputs.given_target(target, C)
    temperatures, label_temperature = inputs.temperatures(label_temperature, C)
    learned = temperature if isinstance(temperature, Tensor) else None
    a = Arguments(
        queries.contiguous(),
        passages.contiguous(),
        contiguous(learned, C),
        labels.contiguous(),
        given,
        contiguous(mask),
        contiguous(weight, C),
        temperatures,
        contiguous(positives, torch.int64),
        contiguous(exclude),
        position,
        similarity == "cosine",
        *(tile or (0, 0)),
        terms.wasserstein,
        terms.info_nce,
        terms.kl,
        target_kind,
        inputs.REDUCTIONS[reduction],
        EXCLUDED if in_batch is None else in_batch,
        num_levels,
        p,
        1.0 if isinstance(temperature, Tensor) else temperature,
        label_temperature,
    )
    if shared is None and backend != "torch":
        loss: Tensor = _OPERATORS[backend](*a)
        return loss
    return Eager(Arguments, TENSORS, *_steps(backend, *(shared or (Alone(), Here)))).loss(a)


class _Tiled:
    """Of backends whose scores stand in a tile before the loss sees them."""

    def __init__(self, of: Callable[[Arguments, int, int, Tensor | None], tiles.LossTiles]) -> None:
        self._of = of

    def statistics(self, a: Arguments, passages: Passages, first: int) -> tuple[Tensor, Tensor, Tensor]:
        return tiles.statistics(self._of(a, passages.total, first, None), a, passages, first)

    def gradients(
        self, a: Arguments, passages: Passages, first: int, state: Tensor, upstream: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return tiles.gradients(self._of(a, passages.total, first, state), a, passages, first, state, upstream)


def _sweeps(backend: str) -> Any:
    """What does both sweeps: `wassrank.embeddings.tiles.statistics` and `gradients`, or for Triton a module that has
    the same."""
    if backend == "triton":
        return importlib.import_module("wassrank.triton").from_embeddings
    return _SWEEPS[backend]


_SWEEPS = {
    "native": _Tiled(NativeTiles),
    "torch": _Tiled(lambda a, total, first, _: PlainTiles(a, total, first)),
}


def _loss(backend: str, a: Arguments, passages: Passages, world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, state and scale."""
    losses, weights, state = world.checked(lambda: _sweeps(backend).statistics(a, passages, world.first))
    if a.reduction == Reduction.none:
        return losses.to(a.computing), state, torch.ones((), dtype=a.computing, device=losses.device)
    total, weight = world.sum(torch.stack([losses.sum(), weights.sum()])).unbind()
    scale = torch.ones_like(weight)
    if a.reduction == Reduction.mean:
        scale = 1 / torch.where(weight == 0, 1.0, weight)
    return (total * scale).to(a.computing), state, scale.to(a.computing)


def _gradients(
    backend: str, a: Arguments, passages: Passages, world: World, grad_loss: Tensor, state: Tensor, scale: Tensor
) -> Gradients:
    upstream = (grad_loss.to(a.computing) * scale).expand(len(a.queries)).contiguous()
    of_queries, of_passages, along = _sweeps(backend).gradients(a, passages, world.first, state, upstream)
    return of_queries, of_passages, along if a.learned is None else -along / a.learned


def _steps(
    backend: str, world: World, everyones: Callable[[Tensor], Passages]
) -> tuple[Callable[[Arguments], tuple[Tensor, ...]], Callable[..., Gradients]]:
    def forward(a: Arguments) -> tuple[Tensor, ...]:
        return _loss(backend, a, everyones(a.passages), world)

    def backward(a: Arguments, grad_loss: Tensor, state: Tensor, scale: Tensor) -> Gradients:
        return _gradients(backend, a, everyones(a.passages), world, grad_loss, state, scale)

    return forward, backward


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    a = Arguments(*arguments)
    q = a.queries.shape[0]
    loss = a.queries.new_empty((q,) if a.reduction == Reduction.none else (), dtype=a.computing)
    state = a.queries.new_empty((q, a.state_width), dtype=a.computing)
    return loss, state, a.queries.new_empty((), dtype=a.computing)


def _kernels(backend: str) -> tuple[Callable[..., tuple[Tensor, ...]], Callable[..., Gradients]]:
    """The operators', of a process that has the whole batch."""
    forward, backward = _steps(backend, Alone(), Here)

    def backward_kernel(grad_loss: Tensor, *rest: Any) -> Gradients:
        given, kept, options = rest[:TENSORS], rest[TENSORS : TENSORS + 2], rest[TENSORS + 2 :]
        return backward(Arguments(*given, *options), grad_loss, *kept)

    return lambda *arguments: forward(Arguments(*arguments)), backward_kernel


def step_work(a: Arguments) -> Work:
    """Of one step of training, forward and backward; meta tensors will do. Bytes are those of the embeddings, their
    gradients and what is given beside them, each once: tiles are to stay in cache."""
    q, d = a.queries.shape
    n = len(a.passages)
    given = [t for t in a[:TENSORS] if isinstance(t, Tensor)]
    embeddings = (q + n) * d * a.queries.element_size()
    return Work(
        bytes=2 * sum(t.numel() * t.element_size() for t in given) + embeddings,
        flops=4 * 2 * q * n * d + 12 * q * n,
        extra_bytes=q * a.state_width * a.computing.itemsize,
    )


_ASKED = (
    "Tensor queries, Tensor passages, Tensor? learned, Tensor labels, Tensor? target, Tensor? mask, Tensor? weight, "
    "Tensor? label_temperatures, Tensor? positives, Tensor? exclude, Tensor? position"
)
_HOW = (
    "bool cosine, int tile_rows, int tile_columns, float wasserstein, float info_nce, float kl, int target_kind, "
    "int reduction, int in_batch, int num_levels, float p, float temperature, float label_temperature"
)
_OPERATORS = register(
    "level_losses_from_embeddings",
    schema=f"({_ASKED}, {_HOW}) -> (Tensor loss, Tensor state, Tensor scale)",
    fake=_fake,
    backward_schema=(
        f"(Tensor grad_loss, {_ASKED}, Tensor state, Tensor scale, {_HOW}) "
        f"-> (Tensor queries, Tensor passages, Tensor learned)"
    ),
    backward_fake=of_embeddings.backward_fake,
    save=of_embeddings.saver(TENSORS),
    backward=of_embeddings.backward,
    leaves=LEAVES,
    kernels={backend: _kernels(backend) for backend in ("native", "triton")},
)
