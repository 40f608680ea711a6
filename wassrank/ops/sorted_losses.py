"""The operators `wassrank::sorted_losses[_backward]` and `wassrank::grade_order`: weighted sums of grade-axis
Wasserstein, InfoNCE and listwise KL for labels that are any floats, where every passage is a level of its own.

The forward reads the scores once, walks each row in the order of its coordinates (reference/transport.py) and keeps,
for each labelled passage, what the backward needs. As on the level path (level_losses.py), with row maximum s_max,
e_n = exp((S_n − s_max)/temperature), Z = Σ e, temperature t, the row's weight w and each loss's factor λ,

    ∂loss/∂S_n = grad_loss · scale · (c_n · e_n + b_n),
    c_n = w (λ_W (φ_n − ⟨P, φ⟩) + λ_NCE + λ_KL) / (t Z),
    b_n = −(λ_NCE [n is a positive] / positives + λ_KL T_n) w / t.

Other queries' passages all lie at one point: they share a c and a b, and where a target is given them KL's part of b is
f · T_n instead, f = −λ_KL w / (t Σ T). These three stand in the row's state, [c, b, f, s_max]. b_n is kept only for
sums with InfoNCE or KL ("affine").

A row with nothing for any of the losses has zeros throughout. The order depends on the labels alone: `grade_order`
finds it, once for as many steps as the labels stay the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wassrank.codes import EXCLUDED, Reduction, Target
from wassrank.reference import Terms
from wassrank.reference.rows import compute_dtype
from wassrank.tuning import tune_native

from . import inputs
from .inputs import contiguous
from .registration import LIBRARY, register

OTHERS = 0
"""`in_batch` for "other queries' passages take part"; at which label says `others_label`."""

STATE_WIDTH = 4


class Arguments(NamedTuple):
    """Of `wassrank::sorted_losses`, in order. C is the computing dtype; all tensors are contiguous."""

    scores: Tensor  # [Q, N]; packed lists [T]
    labels: Tensor  # [Q, N] or [Q, K] with N = Q·K, of C; packed [T]
    order: Tensor  # int32, as labels: the places of a row's labelled passages by rising coordinate
    target: Tensor | None = None  # [Q, N] or [Q, K] of C; packed [T]
    mask: Tensor | None = None  # bool, [Q, N] or, one flag a passage for every row, N elements; packed [T]
    weight: Tensor | None = None  # [Q] of C
    label_temperatures: Tensor | None = None  # [Q] of C, in place of label_temperature
    positives: Tensor | None = None  # [Q] int64: the positive's place among the row's own passages; outside: none
    offsets: Tensor | None = None  # [Q + 1] int64
    position: Tensor | None = None  # as labels: the coordinates, in the labels' place
    wasserstein: float = 1.0  # the losses' factors; one that is 0 is not computed
    info_nce: float = 0.0
    kl: float = 0.0
    target_kind: int = int(Target.softmax)
    reduction: int = int(Reduction.mean)
    in_batch: int = OTHERS
    others_label: float = 0.0
    p: float = 1.0
    temperature: float = 1.0
    label_temperature: float = 1.0

    @property
    def queries(self) -> int:
        return self.scores.shape[0] if self.offsets is None else self.offsets.shape[0] - 1

    @property
    def affine(self) -> bool:
        return bool(self.info_nce or self.kl)


class BackwardArguments(NamedTuple):
    """Of `wassrank::sorted_losses_backward`, in order."""

    grad_loss: Tensor  # [] or [Q] of C
    scores: Tensor
    coefficient: Tensor  # as labels, of C: c
    constant: Tensor | None  # as labels, of C: b; None where all are 0
    target: Tensor | None  # [Q, N], where KL looks at what others are given
    mask: Tensor | None
    offsets: Tensor | None
    state: Tensor  # [Q, 4]
    scale: Tensor  # []
    temperature: float


def order(values: Tensor, offsets: Tensor | None) -> Tensor:
    """`wassrank::grade_order`, by the native extension."""
    places: Tensor = torch.ops.wassrank.grade_order(values, offsets)
    return places


def fused(backend: str) -> Callable[..., Tensor]:
    """The losses on a fused backend: called as `wassrank.reference.graded_loss` is, with float labels, and with
    `order` beside."""
    return _FUSED[backend]


def _fused(backend: str, operator: Callable[..., Any]) -> Callable[..., Tensor]:
    def sorted_losses(
        scores: Tensor,
        labels: Tensor,
        terms: Terms,
        *,
        p: float,
        temperature: float,
        label_temperature: float | Tensor,
        target: str | Tensor,
        mask: Tensor | None,
        weight: Tensor | None,
        in_batch: float | None,
        position: Tensor | None,
        positives: Tensor | None,
        order: Tensor,
        offsets: Tensor | None,
        reduction: str,
    ) -> Tensor:
        if backend == "native" and scores.is_cuda:
            tune_native(scores.device.index)
        C = compute_dtype(scores.dtype)
        given, target_kind = inputs.given_target(target, C)
        temperatures, label_temperature = inputs.temperatures(label_temperature, C)
        loss: Tensor = operator(
            scores.contiguous(),
            contiguous(labels, C),
            order.contiguous(),
            given,
            contiguous(mask),
            contiguous(weight, C),
            temperatures,
            contiguous(positives, torch.int64),
            contiguous(offsets, torch.int64),
            contiguous(position, C),
            terms.wasserstein,
            terms.info_nce,
            terms.kl,
            target_kind,
            inputs.REDUCTIONS[reduction],
            EXCLUDED if in_batch is None else OTHERS,
            0.0 if in_batch is None else float(in_batch),
            p,
            temperature,
            label_temperature,
        )
        return loss

    return sorted_losses


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    a = Arguments(*arguments)
    C = compute_dtype(a.scores.dtype)
    loss = a.scores.new_empty((a.queries,) if a.reduction == Reduction.none else (), dtype=C)
    coefficient = torch.empty_like(a.labels, dtype=C)
    constant = torch.empty_like(a.labels, dtype=C) if a.affine else a.scores.new_empty((0,), dtype=C)
    state = a.scores.new_empty((a.queries, STATE_WIDTH), dtype=C)
    return loss, coefficient, constant, state, a.scores.new_empty((), dtype=C)


def _backward_fake(*arguments: Any) -> Tensor:
    return torch.empty_like(BackwardArguments(*arguments).scores)


def _save(ctx: Any, scores: Tensor, rest: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a = Arguments(scores, *rest)
    _, coefficient, constant, state, scale = output
    others = a.labels.shape != scores.shape and a.target is not None and a.target.shape == scores.shape
    ctx.save_for_backward(
        scores,
        coefficient,
        constant if a.affine else None,
        a.target if a.kl and others else None,
        a.mask,
        a.offsets,
        state,
        scale,
    )
    ctx.temperature = a.temperature


def _backward(backward_op: Any, ctx: Any, grad_loss: Tensor) -> Tensor:
    gradient: Tensor = backward_op(grad_loss.contiguous(), *ctx.saved_tensors, ctx.temperature)
    return gradient


_OPERATORS = register(
    "sorted_losses",
    schema=(
        "(Tensor scores, Tensor labels, Tensor order, Tensor? target, Tensor? mask, Tensor? weight, "
        "Tensor? label_temperatures, Tensor? positives, Tensor? offsets, Tensor? position, float wasserstein, "
        "float info_nce, float kl, int target_kind, int reduction, int in_batch, float others_label, float p, "
        "float temperature, float label_temperature) "
        "-> (Tensor loss, Tensor coefficient, Tensor constant, Tensor state, Tensor scale)"
    ),
    fake=_fake,
    backward_schema=(
        "(Tensor grad_loss, Tensor scores, Tensor coefficient, Tensor? constant, Tensor? target, Tensor? mask, "
        "Tensor? offsets, Tensor state, Tensor scale, float temperature) -> Tensor"
    ),
    backward_fake=_backward_fake,
    save=_save,
    backward=_backward,
)
_FUSED = {backend: _fused(backend, operator) for backend, operator in _OPERATORS.items()}

LIBRARY.define("grade_order(Tensor values, Tensor? offsets) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
torch.library.register_fake(
    "wassrank::grade_order", lambda values, offsets: torch.empty_like(values, dtype=torch.int32), lib=LIBRARY
)
