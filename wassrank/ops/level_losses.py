"""The operators `wassrank::level_losses` and `wassrank::level_losses_backward`: weighted sums of grade-axis
Wasserstein, InfoNCE and listwise KL over rows whose passages have few grades, in one pass over the scores each way.

Each of these losses knows a row's passages by their grade alone. So the forward gathers sums by level, and with
e_n = exp((S_n − s_max)/temperature), s_max the row's maximum, every gradient has the form

    ∂loss/∂S_n = grad_loss · scale · (c · e_n + b + f · T_n),

where c and b depend on the passage's level alone; scale is 1/Σw for the mean and 1 otherwise. With λ the loss's factor,
w the row's weight, t the temperature and Z the sum of e over the passages that a loss looks at, the losses add up:

    Wasserstein   c_l += λ w (φ_l − ⟨P, φ⟩) / (t Z)
    KL            c_l += λ w / (t Z),   b_l −= λ w T_l / t   (T_l: what one passage of level l is asked for)
                  or, where the target is given, f −= λ w / (t Σ T) and T_n is read once more
    InfoNCE       c_l += λ w / (t Z),   b_l −= λ w / (t · positives) for the positives' level

Kept for the backward, a row's `state`, with L = num_levels:

    [c_0 … c_{L−1}, s_max]                                                     Wasserstein alone
    [c_0 … c_{L−1}, b_0 … b_{L−1}, b_o, b_+, f, s_max]                         otherwise ("affine")

b_o is other queries' passages', which are never InfoNCE's positives though they be of their grade; b_+ is that of the
passage that `positives` names. The maximum is kept rather than the log-sum-exp because S_n − s_max is exact where it
matters, also at temperature 1e-3, where S_n/temperature − lse has lost every bit below one.

A row with nothing for any of the losses has a state of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wassrank.arguments import Arguments, BackwardArguments
from wassrank.codes import EXCLUDED, Reduction
from wassrank.reference import Terms
from wassrank.reference.rows import compute_dtype
from wassrank.tuning import tune_native

from . import direct, inputs
from .inputs import contiguous
from .registration import ShortCut, register
from .work import Work, passages_read, read_bytes


def fused(backend: str) -> Callable[..., Tensor]:
    """The losses on a fused backend, "native" or "triton": called as `wassrank.reference.graded_loss` is, with integer
    labels, and with arguments already checked."""
    return _FUSED[backend]


def _fused(backend: str, operator: Callable[..., Any]) -> Callable[..., Tensor]:
    def level_losses(
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
        in_batch: int | None,
        num_levels: int,
        position: Tensor | None,
        positives: Tensor | None,
        offsets: Tensor | None,
        reduction: str,
    ) -> Tensor:
        """Copies nothing of size [Q, N] unless an argument is not contiguous or a target is in another dtype than the
        computation's."""
        if backend == "native" and scores.is_cuda:
            tune_native(scores.device.index)
        C = compute_dtype(scores.dtype)
        given, target_kind = inputs.given_target(target, C)
        temperatures, label_temperature = inputs.temperatures(label_temperature, C)
        loss: Tensor = operator(
            scores.contiguous(),
            labels.contiguous(),
            given,
            contiguous(mask),
            contiguous(weight, C),
            temperatures,
            contiguous(positives, torch.int64),
            contiguous(offsets, torch.int64),
            position,
            terms.wasserstein,
            terms.info_nce,
            terms.kl,
            target_kind,
            inputs.REDUCTIONS[reduction],
            EXCLUDED if in_batch is None else in_batch,
            num_levels,
            p,
            temperature,
            label_temperature,
        )
        return loss

    return level_losses


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    a = Arguments(*arguments)
    C = compute_dtype(a.scores.dtype)
    loss = a.scores.new_empty((a.queries,) if a.reduction == Reduction.none else (), dtype=C)
    return loss, a.scores.new_empty((a.queries, a.state_width), dtype=C), a.scores.new_empty((), dtype=C)


def _backward_fake(*arguments: Any) -> Tensor:
    return torch.empty_like(BackwardArguments(*arguments).scores)


def _save(ctx: Any, scores: Tensor, rest: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # Arguments by name would cost a microsecond a step.
    (labels, target, mask, _, _, positives, offsets, _, _, info_nce, kl, _, _, in_batch, num_levels, _, temperature,
     _) = rest  # fmt: skip
    ctx.save_for_backward(
        scores, labels, target if kl else None, mask, positives if info_nce else None, offsets, *output[1:]
    )
    ctx.options = in_batch, num_levels, temperature


def _backward(backward_op: Any, ctx: Any, grad_loss: Tensor) -> Tensor:
    gradient: Tensor = backward_op(grad_loss.contiguous(), *ctx.saved_tensors, *ctx.options)
    return gradient


def forward_work(a: Arguments) -> Work:
    """Of `wassrank::level_losses`, mean or sum. Left out: what turns a row's level sums into its loss, some tens of
    operations a level, which matters only where rows are so short that operations do not."""
    C = compute_dtype(a.scores.dtype).itemsize
    passages = passages_read(a.scores, a.labels, a.in_batch)
    kept = a.queries * a.state_width + 1  # state, scale
    rows = 2 * a.queries  # each one's loss and weight, written by the one kernel and read by the one that adds them up
    row_inputs = [t for t in (a.weight, a.label_temperatures, a.positives, a.offsets) if t is not None]
    affine = 2 if a.info_nce or a.kl else 0  # the logits' sum by level
    return Work(
        bytes=read_bytes(a.scores, a.labels, a.target, a.mask, in_batch=a.in_batch)
        + sum(t.numel() * t.element_size() for t in row_inputs)
        + (kept + 2 * rows + 1) * C,  # 1: the loss
        # Maximum, difference, scaling, exponential, its sum and the count by level; a given target's sum.
        flops=(6 + affine) * passages + (0 if a.target is None else min(a.target.numel(), passages)),
        extra_bytes=(kept + rows) * C,
    )


def backward_work(a: Arguments) -> Work:
    """Of `wassrank::level_losses_backward`."""
    C = compute_dtype(a.scores.dtype).itemsize
    passages = passages_read(a.scores, a.labels, a.in_batch)
    row_inputs = [t for t in (a.positives if a.info_nce else None, a.offsets) if t is not None]
    affine = 1 if a.info_nce or a.kl else 0
    return Work(
        bytes=read_bytes(a.scores, a.labels, a.target if a.kl else None, a.mask, in_batch=a.in_batch)
        + sum(t.numel() * t.element_size() for t in row_inputs)
        + (a.queries * a.state_width + 2) * C  # state; scale and the loss's gradient
        + a.scores.numel() * a.scores.element_size(),  # the gradient, also of passages that take no part
        # Difference, scaling, exponential, times the coefficient, times the loss's gradient; plus b.
        flops=(5 + affine) * passages,
        extra_bytes=0,
    )


def step_work(arguments: Arguments) -> Work:
    """Of one step of training, forward and backward. Meta tensors will do."""
    return forward_work(arguments) + backward_work(arguments)


_OPERATORS = register(
    "level_losses",
    schema=(
        "(Tensor scores, Tensor labels, Tensor? target, Tensor? mask, Tensor? weight, Tensor? label_temperatures, "
        "Tensor? positives, Tensor? offsets, Tensor? position, float wasserstein, float info_nce, float kl, "
        "int target_kind, int reduction, int in_batch, int num_levels, float p, float temperature, "
        "float label_temperature) -> (Tensor loss, Tensor state, Tensor scale)"
    ),
    fake=_fake,
    backward_schema=(
        "(Tensor grad_loss, Tensor scores, Tensor labels, Tensor? target, Tensor? mask, Tensor? positives, "
        "Tensor? offsets, Tensor state, Tensor scale, int in_batch, int num_levels, float temperature) -> Tensor"
    ),
    backward_fake=_backward_fake,
    save=_save,
    backward=_backward,
    short_cut=ShortCut(direct.serves, direct.level_losses, direct.level_losses_backward),
)
_FUSED = {backend: _fused(backend, operator) for backend, operator in _OPERATORS.items()}
