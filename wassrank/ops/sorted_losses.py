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
from typing import Any

import torch
from torch import Tensor

from wassrank.arguments import OTHERS, SORTED_STATE_WIDTH
from wassrank.arguments import SortedArguments as Arguments
from wassrank.arguments import SortedBackwardArguments as BackwardArguments
from wassrank.codes import EXCLUDED, Reduction
from wassrank.reference import Terms
from wassrank.reference.rows import compute_dtype
from wassrank.tuning import tune_native

from . import inputs
from .inputs import contiguous
from .registration import LIBRARY, register, serve_by_triton
from .work import Work, passages_read, read_bytes


def order(values: Tensor, offsets: Tensor | None) -> Tensor:
    """`wassrank::grade_order`, by the native extension."""
    places: Tensor = torch.ops.wassrank.grade_order(values, offsets)
    return places


def short_order(values: Tensor) -> Tensor:
    """`wassrank::grade_order_triton`, of [Q, K ≤ TRITON_SORTS] float32."""
    places: Tensor = torch.ops.wassrank.grade_order_triton(values)
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
        order: Tensor | None,
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
            contiguous(order),
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
    state = a.scores.new_empty((a.queries, SORTED_STATE_WIDTH), dtype=C)
    return loss, coefficient, constant, state, a.scores.new_empty((), dtype=C)


def _backward_fake(*arguments: Any) -> Tensor:
    return torch.empty_like(BackwardArguments(*arguments).scores)


def _save(ctx: Any, scores: Tensor, rest: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a = Arguments(scores, *rest)
    _, coefficient, constant, state, scale = output
    ctx.save_for_backward(
        scores,
        coefficient,
        constant if a.affine else None,
        a.target if _others_are_given(a) else None,
        a.mask,
        a.offsets,
        state,
        scale,
    )
    ctx.temperature = a.temperature


def _others_are_given(a: Arguments) -> bool:
    """Whether the backward reads the target: KL's, of other queries' passages; what own ones are given is in b."""
    return bool(a.kl) and a.target is not None and a.target.shape == a.scores.shape != a.labels.shape


def _backward(backward_op: Any, ctx: Any, grad_loss: Tensor) -> Tensor:
    gradient: Tensor = backward_op(grad_loss.contiguous(), *ctx.saved_tensors, ctx.temperature)
    return gradient


# Operations a labelled passage costs beside what every passage does, of p = 1: its gain, difference, scaling,
# exponential and sum; both shares; the step along the line; two running sums, of differences; size, cost and its sum;
# φ's sum; its mean, two; c, three.
WALK = 4 + 2 + 1 + 3 + 3 + 1 + 2 + 3
# And of any other p: the third running sum instead of the cost of a gap, two quantiles' increments of four distances
# each a difference and a power, added up; two stretches of mass, each three to cut and three to bring over.
WALK_P = WALK - 3 + 1 + 4 * 2 + 4 + 2 * 6
LINE = 4
"""Numbers in float64 that a GPU must keep of every point of the line for p other than 1: coordinate, both running sums,
φ's increment."""


def forward_work(a: Arguments) -> Work:
    """Of `wassrank::sorted_losses`, mean or sum; without the order, which is another operator's."""
    C = compute_dtype(a.scores.dtype).itemsize
    passages = passages_read(a.scores, a.labels, a.in_batch)
    own = a.labels.numel()
    kept = own * (2 if a.affine else 1) + a.queries * SORTED_STATE_WIDTH + 1  # coefficient, constant, state, scale
    rows = 2 * a.queries  # each one's loss and weight, written by the one kernel and read by the one that adds them up
    row_inputs = [t for t in (a.weight, a.label_temperatures, a.positives, a.offsets) if t is not None]
    points = own + (a.queries if passages > own else 0)
    affine = 2 * passages + 4 * own if a.affine else 0  # the logits' sums; T log T and b
    return Work(
        bytes=read_bytes(a.scores, a.labels, a.order, a.target, a.mask, a.position, in_batch=a.in_batch)
        + sum(t.numel() * t.element_size() for t in row_inputs)
        + (kept + 2 * rows + 1) * C,  # 1: the loss
        # Maximum, difference, scaling, exponential and its sum; a given target's sum.
        flops=5 * passages
        + (WALK if a.p == 1 else WALK_P) * own
        + affine
        + (0 if a.target is None else min(a.target.numel(), passages)),
        extra_bytes=(kept + rows) * C + (0 if a.p == 1 else LINE * 8 * points),
    )


def backward_work(a: Arguments) -> Work:
    """Of `wassrank::sorted_losses_backward`."""
    C = compute_dtype(a.scores.dtype).itemsize
    passages = passages_read(a.scores, a.labels, a.in_batch)
    constant = a.labels if a.affine else None  # and coefficient: as labels
    others_given = passages - a.labels.numel() if _others_are_given(a) else 0
    return Work(
        bytes=read_bytes(a.scores, a.labels, constant, a.mask, in_batch=a.in_batch)
        + (0 if a.offsets is None else a.offsets.numel() * a.offsets.element_size())
        + (others_given + a.queries * SORTED_STATE_WIDTH + 2) * C  # state; scale and the loss's gradient
        + a.scores.numel() * a.scores.element_size(),  # the gradient, also of passages that take no part
        # Difference, scaling, exponential, times the coefficient, times the loss's gradient; plus b.
        flops=(6 if a.affine else 5) * passages,
        extra_bytes=0,
    )


def step_work(arguments: Arguments) -> Work:
    """Of one step of training, forward and backward. Meta tensors will do."""
    return forward_work(arguments) + backward_work(arguments)


_OPERATORS = register(
    "sorted_losses",
    schema=(
        "(Tensor scores, Tensor labels, Tensor? order, Tensor? target, Tensor? mask, Tensor? weight, "
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


def _order_fake(values: Tensor, offsets: Tensor | None = None) -> Tensor:
    return torch.empty_like(values, dtype=torch.int32)


for _name, _rest in (("grade_order", ", Tensor? offsets"), ("grade_order_triton", "")):
    LIBRARY.define(f"{_name}(Tensor values{_rest}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"wassrank::{_name}", _order_fake, lib=LIBRARY)
serve_by_triton("grade_order", "grade_order_triton")
