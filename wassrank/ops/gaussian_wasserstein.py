"""The operators `wassrank::gaussian_wasserstein[_backward]`: the squared 2-Wasserstein distance of the Gaussians of a
batch's predictions and targets; wassrank/gaussian says how, and what is kept for the backward.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wassrank.gaussian import distance, native_step
from wassrank.gaussian.distance import Kept, kept_shapes
from wassrank.gaussian.native import Native
from wassrank.gaussian.passes import Arguments, Passes
from wassrank.processes.group import Group
from wassrank.processes.world import Alone, World
from wassrank.reference.rows import compute_dtype

from . import direct, inputs
from .inputs import contiguous
from .registration import ShortCut, register
from .work import Work

TENSORS = 5
"""Of the arguments, the first."""
OPTIONS = Arguments._fields[TENSORS:]


def fused(
    scores: Tensor,
    labels: Tensor,
    *,
    backend: str,
    temperature: float,
    label_temperature: float | Tensor,
    target: str | Tensor,
    mask: Tensor | None,
    in_batch: float | None,
    num_levels: int | None,
    covariance: str,
    eps: float,
    group: Group | None = None,
) -> Tensor:
    """Called as `wassrank.reference.gaussian_wasserstein` is, on a fused backend. With a `group` these are this
    process's rows of a batch."""
    given, target_kind = inputs.given_target(target, torch.float64)
    temperatures, label_temperature = inputs.temperatures(label_temperature, torch.float64)
    if mask is not None and mask.shape != scores.shape:
        mask = mask.reshape(-1)
    a = Arguments(
        scores.contiguous(),
        labels.contiguous(),
        given,
        contiguous(mask),
        temperatures,
        target_kind,
        None if in_batch is None else float(in_batch),
        num_levels,
        temperature,
        label_temperature,
        covariance == "diagonal",
        eps,
    )
    loss: Tensor = _OPERATORS[backend](*a) if group is None else _OfGroup.apply(a.scores, a[1:], backend, group)  # type: ignore[no-untyped-call]
    return loss


def _native(a: Arguments, first: int) -> Passes:
    return Native(a, first)


def _triton(a: Arguments, first: int) -> Passes:
    passes: Passes = importlib.import_module("wassrank.triton").GaussianPasses(a, first)
    return passes


PASSES: dict[str, Callable[[Arguments, int], Passes]] = {"native": _native, "triton": _triton}


def _distance(backend: str, a: Arguments, world: World) -> tuple[Tensor, Kept]:
    if backend == "native" and a.scores.is_cpu and isinstance(world, Alone):
        small = native_step.forward(a)
        if small is not None:
            return small
    with torch.cuda.device_of(a.scores):  # whose kernels they are; nothing on the CPU
        return distance.forward(PASSES[backend](a, world.first), a, world)


def _gradient(backend: str, a: Arguments, kept: Kept, grad_loss: Tensor, world: World) -> Tensor:
    gradient = torch.empty_like(a.scores)
    with torch.cuda.device_of(a.scores):
        distance.backward(PASSES[backend](a, world.first), a, kept, grad_loss, gradient, world)
    return gradient


class _OfGroup(torch.autograd.Function):
    """The distance of a batch that several processes share. No operator: a group of processes is nothing to trace."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, rest: tuple[Any, ...], backend: str, group: Group) -> Tensor:
        a = Arguments(scores, *rest)
        loss, kept = _distance(backend, a, group)
        ctx.save_for_backward(*a[:TENSORS], *kept)
        ctx.rest = a[TENSORS:], backend, group
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None]:
        options, backend, group = ctx.rest
        tensors, kept = ctx.saved_tensors[:TENSORS], ctx.saved_tensors[TENSORS:]
        return _gradient(backend, Arguments(*tensors, *options), Kept(*kept), grad_loss, group), None, None, None


def _fake(*arguments: Any) -> tuple[Tensor, ...]:
    a = Arguments(*arguments)
    *floats, flag = (a.scores.new_empty(shape, dtype=torch.float64) for shape in kept_shapes(a))
    loss = a.scores.new_empty((), dtype=compute_dtype(a.scores.dtype))
    return loss, *floats, flag.to(torch.bool)


def _backward_fake(grad_loss: Tensor, scores: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(scores)


def _save(ctx: Any, scores: Tensor, rest: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a = Arguments(scores, *rest)
    ctx.save_for_backward(*a[:TENSORS], *output[1:])
    ctx.options = a[TENSORS:]


def _backward(backward_op: Any, ctx: Any, grad_loss: Tensor) -> Tensor:
    gradient: Tensor = backward_op(grad_loss.contiguous(), *ctx.saved_tensors, *ctx.options)
    return gradient


def step_work(a: Arguments) -> Work:
    """Of one step of training, forward and backward; meta tensors will do. Left out: the small algebra,
    operations in Q³."""
    Q, N = a.scores.shape
    given = [t for t in (a.scores, a.labels, a.target, a.mask, a.label_temperatures) if t is not None]
    kept = 8 * sum(math.prod(shape) for shape in kept_shapes(a))
    dense = a.labels.shape == a.scores.shape and not a.diagonal
    return Work(
        bytes=2 * sum(t.numel() * t.element_size() for t in given)
        + 2 * kept
        + a.scores.numel() * a.scores.element_size(),
        # Three times P; centring, squares and products forward, W E and the softmax backward; with targets that are
        # written out two products of [Q, Q] and [Q, N].
        flops=27 * Q * N + (4 * Q * Q * N if dense else 0),
        extra_bytes=kept,
    )


def _kernels(backend: str) -> tuple[Callable[..., tuple[Tensor, ...]], Callable[..., Tensor]]:
    """The operators' kernels, from a backend's passes."""

    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        loss, kept = _distance(backend, Arguments(*arguments), Alone())
        return loss, *kept

    def backward(grad_loss: Tensor, *rest: Any) -> Tensor:
        tensors, kept, options = rest[:TENSORS], rest[TENSORS : TENSORS + len(Kept._fields)], rest[-len(OPTIONS) :]
        return _gradient(backend, Arguments(*tensors, *options), Kept(*kept), grad_loss, Alone())

    return forward, backward


_ASKED = "Tensor scores, Tensor labels, Tensor? target, Tensor? mask, Tensor? label_temperatures"
_HOW = (
    "int target_kind, float? in_batch, int? num_levels, float temperature, float label_temperature, bool diagonal, "
    "float eps"
)
_KEPT = ", ".join(f"Tensor {name}" for name in Kept._fields)
_OPERATORS = register(
    "gaussian_wasserstein",
    schema=f"({_ASKED}, {_HOW}) -> (Tensor loss, {_KEPT})",
    fake=_fake,
    backward_schema=f"(Tensor grad_loss, {_ASKED}, {_KEPT}, {_HOW}) -> Tensor",
    backward_fake=_backward_fake,
    save=_save,
    backward=_backward,
    short_cut=ShortCut(direct.serves, *_kernels("native")),
    kernels={backend: _kernels(backend) for backend in PASSES},
)
