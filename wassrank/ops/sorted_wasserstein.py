"""The operators `wassrank::sorted_wasserstein[_backward]` and `wassrank::grade_order`: grade-axis Wasserstein for
labels that are any floats, where every passage is a level of its own.

The forward reads the scores once, walks each row in the order of its coordinates (reference/transport.py) and keeps,
for each labelled passage, what the backward multiplies its exponential by. With row maximum s_max, Z = Σ_n exp((S_n −
s_max)/temperature), potentials φ and the row's weight w,

    coefficient_n = w · (φ_n − ⟨P, φ⟩) / (temperature · Z),
    ∂loss/∂S_n = grad_loss · scale · coefficient_n · exp((S_n − s_max)/temperature).

Other queries' passages all lie at one point: they share a coefficient, which stands in the row's state with s_max. The
order depends on the labels alone: `grade_order` finds it, once for as many steps as the labels stay the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wassrank.codes import EXCLUDED, Reduction, Target
from wassrank.reference import Terms
from wassrank.reference.rows import compute_dtype

from .registration import LIBRARY, register

OTHERS = 0
"""`in_batch` for "other queries' passages take part"; at which label says `others_label`."""


class Arguments(NamedTuple):
    """Of `wassrank::sorted_wasserstein`, in order. C is the computing dtype; all tensors are contiguous."""

    scores: Tensor  # [Q, N]; packed lists [T]
    labels: Tensor  # [Q, N] or [Q, K] with N = Q·K, of C; packed [T]
    order: Tensor  # int32, as labels: the places of a row's labelled passages by rising coordinate
    target: Tensor | None = None  # [Q, N] or [Q, K] of C; packed [T]
    mask: Tensor | None = None  # bool, [Q, N] or, one flag a passage for every row, N elements; packed [T]
    weight: Tensor | None = None  # [Q] of C
    label_temperatures: Tensor | None = None  # [Q] of C, in place of label_temperature
    offsets: Tensor | None = None  # [Q + 1] int64
    position: Tensor | None = None  # as labels: the coordinates, in the labels' place
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


def order(values: Tensor, offsets: Tensor | None) -> Tensor:
    """`wassrank::grade_order`, on the CPU."""
    places: Tensor = torch.ops.wassrank.grade_order(values, offsets)
    return places


def fused(backend: str) -> Callable[..., Tensor]:
    """The loss on a fused backend: called as `wassrank.reference.graded_loss` is, with float labels and Wasserstein as
    the only term."""
    operator = _OPERATORS[backend]

    def sorted_wasserstein(
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
        order: Tensor,
        offsets: Tensor | None,
        reduction: str,
        **_: Any,  # what the other losses take
    ) -> Tensor:
        C = compute_dtype(scores.dtype)
        labels = labels.to(C).contiguous()
        position = None if position is None else position.to(C).contiguous()
        offsets = None if offsets is None else offsets.long().contiguous()
        given, temperatures = None, None
        if isinstance(target, Tensor):
            given, target = target.to(C).contiguous(), "given"
        if isinstance(label_temperature, Tensor):
            temperatures, label_temperature = label_temperature.to(C).contiguous(), 1.0
        loss: Tensor = operator(
            scores.contiguous(),
            labels,
            order.contiguous(),
            given,
            None if mask is None else mask.contiguous(),
            None if weight is None else weight.to(C).contiguous(),
            temperatures,
            offsets,
            position,
            int(Target[target]),
            int(Reduction[reduction]),
            EXCLUDED if in_batch is None else OTHERS,
            0.0 if in_batch is None else float(in_batch),
            p,
            temperature,
            label_temperature,
        )
        return loss if terms.wasserstein == 1 else terms.wasserstein * loss

    return sorted_wasserstein


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a = Arguments(*arguments)
    C = compute_dtype(a.scores.dtype)
    loss = a.scores.new_empty((a.queries,) if a.reduction == Reduction.none else (), dtype=C)
    coefficient = torch.empty_like(a.labels, dtype=C)
    return loss, coefficient, a.scores.new_empty((a.queries, 2), dtype=C), a.scores.new_empty((), dtype=C)


def _backward_fake(grad_loss: Tensor, scores: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(scores)


def _save(ctx: Any, scores: Tensor, rest: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a = Arguments(scores, *rest)
    _, coefficient, state, scale = output
    ctx.save_for_backward(scores, coefficient, a.mask, a.offsets, state, scale)
    ctx.temperature = a.temperature


def _backward(backward_op: Any, ctx: Any, grad_loss: Tensor) -> Tensor:
    gradient: Tensor = backward_op(grad_loss.contiguous(), *ctx.saved_tensors, ctx.temperature)
    return gradient


_OPERATORS = register(
    "sorted_wasserstein",
    schema=(
        "(Tensor scores, Tensor labels, Tensor order, Tensor? target, Tensor? mask, Tensor? weight, "
        "Tensor? label_temperatures, Tensor? offsets, Tensor? position, int target_kind, int reduction, int in_batch, "
        "float others_label, float p, float temperature, float label_temperature) "
        "-> (Tensor loss, Tensor coefficient, Tensor state, Tensor scale)"
    ),
    fake=_fake,
    backward_schema=(
        "(Tensor grad_loss, Tensor scores, Tensor coefficient, Tensor? mask, Tensor? offsets, Tensor state, "
        "Tensor scale, float temperature) -> Tensor"
    ),
    backward_fake=_backward_fake,
    save=_save,
    backward=_backward,
)

LIBRARY.define("grade_order(Tensor values, Tensor? offsets) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
torch.library.register_fake(
    "wassrank::grade_order", lambda values, offsets: torch.empty_like(values, dtype=torch.int32), lib=LIBRARY
)
