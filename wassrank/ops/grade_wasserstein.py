"""The operators `wassrank::grade_wasserstein` and `wassrank::grade_wasserstein_backward`, and the call into them.

Forward reads the scores once and keeps, for each row, what the backward needs to read them only once more. With row
maximum s_max, Z = Σ_n exp((S_n − s_max)/temperature), centred potentials φ_l − ⟨P, φ⟩ and the row's weight w,

    state = [c_0, …, c_{L−1}, s_max],    c_l = w · (φ_l − ⟨P, φ⟩) / (temperature · Z),

    ∂loss/∂S_n = grad_loss · scale · c_{level(n)} · exp((S_n − s_max)/temperature),

scale being 1/Σw for the mean and 1 otherwise. The maximum is kept rather than the log-sum-exp because S_n − s_max is
exact where it matters, also at temperature 1e-3, where S_n/temperature − lse has lost every bit below one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wassrank.codes import EXCLUDED, Reduction, Target
from wassrank.reference.grade_wasserstein import compute_dtype
from wassrank.tuning import tune_native

from .registration import register
from .work import Work, passages_read, read_bytes

_TARGETS = {kind.name: int(kind) for kind in Target}
_REDUCTIONS = {kind.name: int(kind) for kind in Reduction}


def fused(backend: str) -> Callable[..., Tensor]:
    """The loss on a fused backend, "native" or "triton": called as `wassrank.reference.grade_wasserstein` is, with
    arguments already checked."""
    return _FUSED[backend]


def _fused(backend: str, operator: Callable[..., Any]) -> Callable[..., Tensor]:
    def grade_wasserstein(
        scores: Tensor,  # [Q, N]
        labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K
        *,
        p: float,
        temperature: float,
        label_temperature: float,
        target: str | Tensor,
        mask: Tensor | None,
        weight: Tensor | None,
        in_batch: int | None,
        num_levels: int,
        reduction: str,
    ) -> Tensor:
        """Copies nothing of size [Q, N] unless an argument is not contiguous or a target is in another dtype than the
        computation's."""
        if backend == "native" and scores.is_cuda:
            tune_native(scores.device.index)
        given = None
        if isinstance(target, Tensor):
            given, target = target.to(compute_dtype(scores.dtype)).contiguous(), "given"
        if weight is not None:
            weight = weight.to(compute_dtype(scores.dtype)).contiguous()
        loss: Tensor = operator(
            scores.contiguous(),
            labels.contiguous(),
            given,
            None if mask is None else mask.contiguous(),
            weight,
            _TARGETS[target],
            _REDUCTIONS[reduction],
            EXCLUDED if in_batch is None else in_batch,
            num_levels,
            p,
            temperature,
            label_temperature,
        )
        return loss

    return grade_wasserstein


def _fake(
    scores: Tensor,
    labels: Tensor,
    target: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    target_kind: int,
    reduction: int,
    in_batch: int,
    num_levels: int,
    p: float,
    temperature: float,
    label_temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    Q = scores.shape[0]
    dtype = compute_dtype(scores.dtype)
    loss = scores.new_empty((Q,) if reduction == Reduction.none else (), dtype=dtype)
    return loss, scores.new_empty((Q, num_levels + 1), dtype=dtype), scores.new_empty((), dtype=dtype)


def _backward_fake(
    grad_loss: Tensor,
    scores: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    state: Tensor,
    scale: Tensor,
    in_batch: int,
    temperature: float,
) -> Tensor:
    return torch.empty_like(scores)


def _save(ctx: Any, scores: Tensor, rest: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    labels, _, mask, _, _, _, in_batch, _, _, temperature, _ = rest
    _, state, scale = output
    ctx.save_for_backward(scores, labels, mask, state, scale)
    ctx.in_batch, ctx.temperature = in_batch, temperature


def _backward(backward_op: Any, ctx: Any, grad_loss: Tensor) -> Tensor:
    scores, labels, mask, state, scale = ctx.saved_tensors
    gradient: Tensor = backward_op(
        grad_loss.contiguous(), scores, labels, mask, state, scale, ctx.in_batch, ctx.temperature
    )
    return gradient


def forward_work(
    scores: Tensor,  # [Q, N]
    labels: Tensor,  # [Q, N] or [Q, K]
    target: Tensor | None,  # [Q, N] or [Q, K] of C
    mask: Tensor | None,
    weight: Tensor | None,  # [Q] of C
    in_batch: int,
    num_levels: int,
) -> Work:
    """Of `wassrank::grade_wasserstein`, mean or sum. Left out: what turns a row's level masses into its cost, some
    tens of operations a level, which matters only where rows are so short that operations do not."""
    Q = scores.shape[0]
    C = compute_dtype(scores.dtype).itemsize
    passages = passages_read(scores, labels, in_batch)
    kept = Q * (num_levels + 1) + 1  # state, scale
    rows = 2 * Q  # each one's loss and weight, written by the one kernel and read by the one that adds them up
    return Work(
        bytes=read_bytes(scores, labels, target, mask, in_batch=in_batch)
        + (0 if weight is None else Q * C)
        + (kept + 2 * rows + 1) * C,  # 1: the loss
        # Maximum, difference, scaling, exponential, its sum and the count by level; a given target's sum.
        flops=6 * passages + (0 if target is None else min(target.numel(), passages)),
        extra_bytes=(kept + rows) * C,
    )


def backward_work(scores: Tensor, labels: Tensor, mask: Tensor | None, in_batch: int, num_levels: int) -> Work:
    """Of `wassrank::grade_wasserstein_backward`."""
    Q = scores.shape[0]
    C = compute_dtype(scores.dtype).itemsize
    return Work(
        bytes=read_bytes(scores, labels, mask, in_batch=in_batch)
        + (Q * (num_levels + 1) + 2) * C  # state; scale and the loss's gradient
        + scores.numel() * scores.element_size(),  # the gradient, also of passages that take no part
        # Difference, scaling, exponential, times the coefficient, times the loss's gradient.
        flops=5 * passages_read(scores, labels, in_batch),
        extra_bytes=0,
    )


def step_work(
    scores: Tensor,
    labels: Tensor,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    in_batch: int | None = 0,
    num_levels: int = 8,
) -> Work:
    """Of one step of training, forward and backward, on contiguous tensors; `in_batch` as the loss takes it."""
    level = EXCLUDED if in_batch is None else in_batch
    return forward_work(scores, labels, target, mask, weight, level, num_levels) + backward_work(
        scores, labels, mask, level, num_levels
    )


_OPERATORS = register(
    "grade_wasserstein",
    schema=(
        "(Tensor scores, Tensor labels, Tensor? target, Tensor? mask, Tensor? weight, int target_kind, int reduction, "
        "int in_batch, int num_levels, float p, float temperature, float label_temperature) "
        "-> (Tensor loss, Tensor state, Tensor scale)"
    ),
    fake=_fake,
    backward_schema=(
        "(Tensor grad_loss, Tensor scores, Tensor labels, Tensor? mask, Tensor state, Tensor scale, int in_batch, "
        "float temperature) -> Tensor"
    ),
    backward_fake=_backward_fake,
    save=_save,
    backward=_backward,
)
_FUSED = {backend: _fused(backend, operator) for backend, operator in _OPERATORS.items()}
