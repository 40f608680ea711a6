"""The operators `wassrank::wasserstein_1d[_backward]`: W_p^p between weighted points on a line, R pairs at once.

The forward sorts both sides, walks the staircase of the monotone coupling once (reference/wasserstein_1d.py) and keeps
the gradient of each pair's loss with respect to what asks for one, where it stands in the inputs:

    slope      ∂W/∂x_i = Σ_j γ_ij p |x_i − y_j|^{p−1} sign(x_i − y_j), for v with the sign turned
    potential  ∂W/∂a_i = (φ_i − Σ_k m_k φ_k) / Σ a, likewise ψ

The backward scales each pair's by the gradient of its loss, and adds up what pairs share: plain torch on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wassrank.arguments import LONGEST_ON_CUDA
from wassrank.arguments import PairArguments as Arguments
from wassrank.arguments import PairBackwardArguments as BackwardArguments
from wassrank.reference.rows import compute_dtype
from wassrank.tuning import tune_native

from . import direct, torch_order
from .inputs import contiguous
from .registration import LIBRARY, ShortCut, register
from .work import Work

LEAVES = 4
"""Values and weights of both sides."""


def fused(backend: str) -> Callable[..., Tensor]:
    """W_p^p of each pair, [R], on a fused backend: of two `wassrank.functional.points.Side`s."""
    return _FUSED[backend]


def _fused(operator: Callable[..., Any]) -> Callable[..., Tensor]:
    def wasserstein_1d(u: Any, v: Any, pairs: int, p: float) -> Tensor:
        leaves = (u.values, v.values, u.weights, v.weights)
        wanted = 0
        if torch.is_grad_enabled():
            wanted = sum([1 << k for k, leaf in enumerate(leaves) if leaf is not None and leaf.requires_grad])
        loss: Tensor = operator(
            *[contiguous(t) for t in (*leaves, u.mask, v.mask, u.offsets, v.offsets)], pairs, wanted, p
        )
        return loss

    return wasserstein_1d


def _fake(*arguments: Any) -> tuple[Tensor, ...]:
    a = Arguments(*arguments)
    C = compute_dtype(a.u_values.dtype)
    return tuple(a.u_values.new_empty(shape, dtype=C) for shape in ((a.pairs,), *kept_shapes(a)))


def kept_shapes(a: Arguments) -> list[tuple[int, ...]]:
    """Of both sides' slopes and potentials."""
    shapes = []
    for k in range(LEAVES):
        values, offsets = (a.u_values, a.u_offsets) if k % 2 == 0 else (a.v_values, a.v_offsets)
        shape = tuple(values.shape) if offsets is not None else (a.pairs, values.shape[1])
        shapes.append(shape if a.wanted >> k & 1 else (0,))
    return shapes


def _backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    b = BackwardArguments(*arguments)
    return tuple(
        torch.empty_like(leaf) if leaf is not None and b.wanted >> k & 1 else b.grad_loss.new_empty(0)
        for k, leaf in enumerate(b.leaves)
    )


def _save(ctx: Any, *inputs: Any) -> None:
    *leaves, rest, output = inputs
    a = Arguments(*leaves, *rest)
    ctx.save_for_backward(*leaves, a.u_offsets, a.v_offsets, *output[1:])
    ctx.wanted = a.wanted


def _backward(backward_op: Any, ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
    gradients = backward_op(grad_loss.contiguous(), *ctx.saved_tensors, ctx.wanted)
    return tuple(gradient if ctx.wanted >> k & 1 else None for k, gradient in enumerate(gradients))


def _backward_kernel(*arguments: Any) -> tuple[Tensor, ...]:
    b = BackwardArguments(*arguments)
    return tuple(
        [
            _scaled(b.grad_loss, leaf, kept, b.v_offsets if k % 2 else b.u_offsets)
            if leaf is not None and b.wanted >> k & 1
            else b.grad_loss.new_empty(0)
            for k, (leaf, kept) in enumerate(zip(b.leaves, b.kept, strict=True))
        ]
    )


def _scaled(grad_loss: Tensor, leaf: Tensor, kept: Tensor, offsets: Tensor | None) -> Tensor:
    """A leaf's gradient."""
    if offsets is not None:
        gradient = grad_loss.repeat_interleave(offsets.diff(), output_size=leaf.shape[0]) * kept
    elif leaf.shape[0] != kept.shape[0]:  # pairs share it
        gradient = (grad_loss @ kept)[None]
    else:
        gradient = grad_loss[:, None] * kept
    return gradient.to(leaf.dtype)


# Operations a point costs in either pass: its mass, two running sums; height, comparison, stretch of mass and distance
# of a cell, its cost and slope added up; the potential's step, its mean and its centring. Beside them the sort.
WALK = 3 + 8 + 6


def step_work(a: Arguments) -> Work:
    """Of one step of training, forward and backward; meta tensors will do."""
    C = compute_dtype(a.u_values.dtype).itemsize
    leaves = (a.u_values, a.v_values, a.u_weights, a.v_weights)
    given = [t for t in (*leaves, a.u_mask, a.v_mask, a.u_offsets, a.v_offsets) if t is not None]
    kept = C * sum(math.prod(shape) for shape in kept_shapes(a))
    gradients = [t for k, t in enumerate(leaves) if t is not None and a.wanted >> k & 1]
    points = sum(math.prod(shape) for shape in kept_shapes(a._replace(wanted=0b11)))
    return Work(
        bytes=sum(t.numel() * t.element_size() for t in (*given, *gradients)) + 2 * kept + 2 * C * a.pairs,
        flops=WALK * points,
        extra_bytes=kept,
    )


_LEAVES = "Tensor u_values, Tensor v_values, Tensor? u_weights, Tensor? v_weights"
_KEPT = "Tensor u_slope, Tensor v_slope, Tensor u_potential, Tensor v_potential"
_OPERATORS = register(
    "wasserstein_1d",
    schema=(
        f"({_LEAVES}, Tensor? u_mask, Tensor? v_mask, Tensor? u_offsets, Tensor? v_offsets, int pairs, int wanted, "
        f"float p) -> (Tensor loss, {_KEPT})"
    ),
    fake=_fake,
    backward_schema=(
        f"(Tensor grad_loss, {_LEAVES}, Tensor? u_offsets, Tensor? v_offsets, {_KEPT}, int wanted) "
        f"-> (Tensor u_values, Tensor v_values, Tensor u_weights, Tensor v_weights)"
    ),
    backward_fake=_backward_fake,
    save=_save,
    backward=_backward,
    leaves=LEAVES,
    short_cut=ShortCut(direct.serves, direct.wasserstein_1d, _backward_kernel),
    backward_kernel=_backward_kernel,
)
_FUSED = {backend: _fused(operator) for backend, operator in _OPERATORS.items()}

# The same with both sides' orders, where it is not the kernels that find them: of a side's rows [R, n], or [1, n] where
# all pairs have the same points in the same order; packed [T]. CUDA's alone.
LIBRARY.define(
    f"wasserstein_1d_ordered({_LEAVES}, Tensor? u_mask, Tensor? v_mask, Tensor? u_offsets, Tensor? v_offsets, "
    f"Tensor? u_order, Tensor? v_order, int pairs, int wanted, float p) -> (Tensor loss, {_KEPT})",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _ordered_fake(*arguments: Any) -> tuple[Tensor, ...]:
    *given, _, _, pairs, wanted, p = arguments
    return _fake(*given, pairs, wanted, p)


torch.library.register_fake("wassrank::wasserstein_1d_ordered", _ordered_fake, lib=LIBRARY)


def _on_cuda(*arguments: Any) -> tuple[Tensor, ...]:
    """Sorts what the kernels do not."""
    a = Arguments(*arguments)
    tune_native(a.u_values.device.index)
    orders = long_order(a.u_values, a.u_mask, a.u_offsets), long_order(a.v_values, a.v_mask, a.v_offsets)
    outputs: tuple[Tensor, ...] = torch.ops.wassrank.wasserstein_1d_ordered(*a[:8], *orders, a.pairs, a.wanted, a.p)
    return outputs


def long_order(values: Tensor, mask: Tensor | None, offsets: Tensor | None) -> Tensor | None:
    """A side's order, what takes no part as at infinity: of packed points and of rows longer than the CUDA kernels
    sort; None for others."""
    C = compute_dtype(values.dtype)
    if offsets is None and values.shape[1] <= LONGEST_ON_CUDA[C]:
        return None
    return torch_order.order(values if mask is None else torch.where(mask, values, math.inf), offsets)


LIBRARY.impl("wasserstein_1d", _on_cuda, "CUDA")
