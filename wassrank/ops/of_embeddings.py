"""What the operators from embeddings share: three leaves (queries, passages, and a temperature that may be learned) and
the tensors that go with them come first among their arguments, of which the backward takes all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wassrank.reference.rows import compute_dtype

LEAVES = 3

Gradients = tuple[Tensor, Tensor, Tensor]
"""Of the leaves; the temperature's means nothing where it is not learned."""


def backward_fake(grad_loss: Tensor, queries: Tensor, passages: Tensor, *_: Any) -> Gradients:
    scalar = queries.new_empty((), dtype=compute_dtype(queries.dtype))
    return torch.empty_like(queries), torch.empty_like(passages), scalar


def saver(tensors: int) -> Callable[..., None]:
    """Saves the first `tensors` of the arguments, and the outputs but for the loss."""

    def save(ctx: Any, queries: Tensor, passages: Tensor, learned: Tensor | None, rest: Any, output: Any) -> None:
        arguments = (queries, passages, learned, *rest)
        ctx.save_for_backward(*arguments[:tensors], *output[1:])
        ctx.options = arguments[tensors:]

    return save


def backward(backward_op: Any, ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
    q, p, t = backward_op(grad_loss.contiguous(), *ctx.saved_tensors, *ctx.options)
    return q, p, None if ctx.saved_tensors[2] is None else t


class Eager(NamedTuple):
    """A loss that is no operator: a group of processes is nothing to trace; and plain torch's epilogue asks autograd,
    which operators lie below."""

    arguments: Callable[..., Any]
    tensors: int  # of them, the first
    forward: Callable[[Any], tuple[Tensor, ...]]  # of the arguments: the loss, and what the backward needs
    backward: Callable[..., Gradients]  # of the arguments, the loss's gradient, and what it needs

    def loss(self, a: tuple[Any, ...]) -> Tensor:
        loss: Tensor = _Eager.apply(*a[:LEAVES], a[LEAVES:], self)  # type: ignore[no-untyped-call]
        return loss


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, passages: Tensor, learned: Tensor | None, rest: tuple[Any, ...], eager: Eager
    ) -> Tensor:
        a = eager.arguments(queries, passages, learned, *rest)
        loss, *kept = eager.forward(a)
        ctx.save_for_backward(*a[: eager.tensors], *kept)
        ctx.rest = a[eager.tensors :], eager
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        options, eager = ctx.rest
        given, kept = ctx.saved_tensors[: eager.tensors], ctx.saved_tensors[eager.tensors :]
        a = eager.arguments(*given, *options)
        q, p, t = eager.backward(a, grad_loss, *kept)
        return q, p, None if given[2] is None else t, None, None
