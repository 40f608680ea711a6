"""The operators `wassrank::gaussian_wasserstein[_backward]`: the squared 2-Wasserstein distance of the Gaussians of a
batch's predictions and targets, in passes over tiles of the scores and one decomposition of a [Q, Q] matrix.

Kept for the backward, beside the inputs: five numbers a row; for labels [Q, K] w [Q, K], the targets' excess on own
passages; and W [Q, Q], the polar factor of the covariance of predictions and targets; see
wassrank/reference/gaussian_wasserstein.py. So far on the CPU alone (wassrank/tiles).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wassrank.codes import Target
from wassrank.reference.rows import compute_dtype
from wassrank.tiles import gaussian_wasserstein as tiles

from . import inputs
from .inputs import contiguous
from .registration import LIBRARY, register
from .work import Work

ROW_STATE = 5


class Arguments(NamedTuple):
    """Of `wassrank::gaussian_wasserstein`, in order; all tensors are contiguous."""

    scores: Tensor  # [Q, N]
    labels: Tensor  # [Q, N] or [Q, K] with N = Q·K
    target: Tensor | None = None  # [Q, N] or [Q, K], floating
    mask: Tensor | None = None  # bool, [Q, N] or, one flag a passage for every row, [N]
    label_temperatures: Tensor | None = None  # [Q], in place of label_temperature
    target_kind: int = int(Target.softmax)
    in_batch: float | None = 0.0  # None leaves other queries' passages out
    num_levels: int | None = 8  # integer labels lie below; None: labels are floats
    temperature: float = 1.0
    label_temperature: float = 1.0
    diagonal: bool = False
    eps: float = 0.0


def beyond(backend: str, device: torch.device) -> str | None:
    """What the backend's kernels cannot do; None where they can."""
    if backend == "native" and device.type == "cpu":
        return None
    return f"{backend} has no kernel for gaussian_wasserstein on {device.type} yet"


def fused(
    scores: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    label_temperature: float | Tensor,
    target: str | Tensor,
    mask: Tensor | None,
    in_batch: float | None,
    num_levels: int | None,
    covariance: str,
    eps: float,
) -> Tensor:
    """Called as `wassrank.reference.gaussian_wasserstein` is."""
    given, target_kind = inputs.given_target(target, torch.float64)
    temperatures, label_temperature = inputs.temperatures(label_temperature, torch.float64)
    if mask is not None and mask.shape != scores.shape:
        mask = mask.reshape(-1)
    loss: Tensor = _OPERATORS["native"](
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
    return loss


def _fake(*arguments: Any) -> tuple[Tensor, ...]:
    a = Arguments(*arguments)
    Q = a.scores.shape[0]
    shapes = (Q, ROW_STATE), tiles.own_shape(a.scores, a.labels), (0 if a.diagonal else Q, Q)
    loss = a.scores.new_empty((), dtype=compute_dtype(a.scores.dtype))
    kept = (a.scores.new_empty(shape, dtype=torch.float64) for shape in shapes)
    return loss, *kept, a.scores.new_empty((), dtype=torch.bool)


def _backward_fake(grad_loss: Tensor, scores: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(scores)


def _save(ctx: Any, scores: Tensor, rest: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a = Arguments(scores, *rest)
    ctx.save_for_backward(scores, a.labels, a.target, a.mask, a.label_temperatures, *output[1:])
    ctx.options = a.target_kind, a.in_batch, a.num_levels, a.temperature, a.label_temperature, a.diagonal


def _backward(backward_op: Any, ctx: Any, grad_loss: Tensor) -> Tensor:
    gradient: Tensor = backward_op(grad_loss.contiguous(), *ctx.saved_tensors, *ctx.options)
    return gradient


def step_work(a: Arguments) -> Work:
    """Of one step of training, forward and backward; meta tensors will do. Left out: the small algebra,
    operations in Q³."""
    Q, N = a.scores.shape
    given = [t for t in (a.scores, a.labels, a.target, a.mask, a.label_temperatures) if t is not None]
    kept = 8 * (Q * ROW_STATE + math.prod(tiles.own_shape(a.scores, a.labels)) + (0 if a.diagonal else Q * Q))
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


_ASKED = "Tensor scores, Tensor labels, Tensor? target, Tensor? mask, Tensor? label_temperatures"
_KEPT = "Tensor rows, Tensor own, Tensor polar_factor, Tensor blocks"
_HOW = "int target_kind, float? in_batch, int? num_levels, float temperature, float label_temperature, bool diagonal"
_OPERATORS = register(
    "gaussian_wasserstein",
    schema=f"({_ASKED}, {_HOW}, float eps) -> (Tensor loss, {_KEPT})",
    fake=_fake,
    backward_schema=f"(Tensor grad_loss, {_ASKED}, {_KEPT}, {_HOW}) -> Tensor",
    backward_fake=_backward_fake,
    save=_save,
    backward=_backward,
    backends=("native",),
)
LIBRARY.impl("gaussian_wasserstein", tiles.gaussian_wasserstein, "CPU")
LIBRARY.impl("gaussian_wasserstein_backward", tiles.gaussian_wasserstein_backward, "CPU")
