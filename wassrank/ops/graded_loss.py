"""Which operator a call of the row losses goes to, and what it is made into first.

The level path knows a passage by its grade, and a passage is in a row or is not. What InfoNCE leaves out (own passages
nearly as good as the positive) is therefore masked here; and of labels that are floats KL needs T alone, InfoNCE which
passages are best; their order is needed by the distance alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wassrank.reference import Terms
from wassrank.reference.rows import compute_dtype, gain, stray_grade

from . import level_losses, sorted_losses


def fused(backend: str) -> Callable[..., Tensor]:
    """Called as `wassrank.reference.graded_loss` is, and with `order`, for what `beyond` has nothing against."""
    return _FUSED[backend]


def _fused(backend: str) -> Callable[..., Tensor]:

    def graded_loss(
        scores: Tensor,
        labels: Tensor,
        terms: Terms,
        *,
        num_levels: int | None,
        negative_grade: float | None,
        order: Tensor | None,
        mask: Tensor | None,
        **options: Any,
    ) -> Tensor:
        if num_levels is None and terms.wasserstein:
            return sorted_losses.fused(backend)(scores, labels, terms, order=order, mask=mask, **options)
        if negative_grade is not None:
            mask = _without_left_out(scores, labels, mask, negative_grade, options["positives"], options["offsets"])
        if num_levels is None:
            labels, options = _as_levels(scores, labels, terms, mask, **options)
            num_levels = 2
        return level_losses.fused(backend)(scores, labels, terms, num_levels=num_levels, mask=mask, **options)

    return graded_loss


_FUSED = {backend: _fused(backend) for backend in ("native", "triton")}


def beyond(terms: Terms, negative_grade: float | None) -> str | None:
    """What the fused kernels cannot do of a call; None where they can."""
    if negative_grade is not None and terms.info_nce and (terms.wasserstein or terms.kl):
        return "negative_grade leaves out passages that the other losses of the sum look at"
    return None


def _own(values: Tensor, labels: Tensor) -> Tensor:
    """Of [Q, N] values the row's own passages', as labels are."""
    if values.shape == labels.shape:
        return values
    Q, K = labels.shape
    query = torch.arange(Q, device=values.device)
    return values.view(Q, Q, K)[query, query]


def _row_max(values: Tensor, offsets: Tensor | None) -> Tensor:
    """The row's maximum beside each of its values."""
    if values.numel() == 0:
        return values
    if offsets is None:
        return values.amax(1, keepdim=True).expand_as(values)
    highest = torch.segment_reduce(values, "max", offsets=offsets, unsafe=True)
    return highest.repeat_interleave(offsets.diff(), output_size=len(values))


def _real(scores: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    """Which own passages take part."""
    real = _own(scores.detach(), labels) != -torch.inf
    return real if mask is None else real & _own(mask, labels)


def _is_best(scores: Tensor, labels: Tensor, mask: Tensor | None, offsets: Tensor | None) -> Tensor:
    """Which own passages have the best grade among those that take part."""
    real = _real(scores, labels, mask)
    grades = labels.double().masked_fill(~real, -torch.inf)
    return real & (grades == _row_max(grades, offsets))


def _without_left_out(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    negative_grade: float,
    positives: Tensor | None,
    offsets: Tensor | None,
) -> Tensor:
    """The mask, less own passages above `negative_grade` that are no positives; as scores: others still compete with
    them."""
    if positives is None:
        positive = _is_best(scores, labels, mask, offsets)
    elif offsets is None:
        positive = torch.arange(labels.shape[1], device=labels.device) == positives[:, None]
    else:
        begin = offsets[:-1].repeat_interleave(offsets.diff(), output_size=len(labels))
        wanted = positives.repeat_interleave(offsets.diff(), output_size=len(labels))
        positive = torch.arange(len(labels), device=labels.device) - begin == wanted
    kept = positive | (labels <= negative_grade)
    if labels.shape == scores.shape:
        return kept if mask is None else kept & mask
    Q, K = labels.shape
    if mask is None:
        whole = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    else:
        whole = mask.clone() if mask.shape == scores.shape else mask.reshape(1, -1).repeat(Q, 1)
    query = torch.arange(Q, device=scores.device)
    whole.view(Q, Q, K)[query, query] &= kept
    return whole


def _as_levels(
    scores: Tensor,
    labels: Tensor,
    terms: Terms,
    mask: Tensor | None,
    *,
    in_batch: float | None,
    target: str | Tensor,
    label_temperature: float | Tensor,
    positives: Tensor | None,
    offsets: Tensor | None,
    **options: Any,
) -> tuple[Tensor, dict[str, Any]]:
    """Grades 1 and 0 for the best and the rest, and a given target; for InfoNCE and KL of float labels."""
    _refuse_strays(scores, labels, mask)
    if terms.kl and not isinstance(target, Tensor):
        target = _masses(scores, labels, mask, in_batch, target, label_temperature, offsets)
    levels = torch.zeros_like(labels, dtype=torch.uint8)
    if terms.info_nce and positives is None:
        levels = _is_best(scores, labels, mask, offsets).to(torch.uint8)
    in_batch = None if in_batch is None else 0
    changed = {"in_batch": in_batch, "target": target, "label_temperature": 1.0}
    return levels, options | changed | {"positives": positives, "offsets": offsets}


def _refuse_strays(scores: Tensor, labels: Tensor, mask: Tensor | None) -> None:
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    stray = ~labels.isfinite() & _real(scores, labels, mask)
    if stray.any():
        raise ValueError(stray_grade(labels[stray][0].item(), None))


def _masses(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    in_batch: float | None,
    target: str,
    label_temperature: float | Tensor,
    offsets: Tensor | None,
) -> Tensor:
    """Each passage's target mass, up to a factor a row; as scores, or as labels where others take no part."""
    y = labels.to(compute_dtype(scores.dtype))
    at = in_batch if labels.shape != scores.shape else None  # other queries' passages, where they take part
    if target == "softmax":
        top = _row_max(y.masked_fill(~_real(scores, labels, mask), -torch.inf), offsets)
        top = torch.where(top == -torch.inf, 0.0, top)
        if at is not None:
            top = top.clamp(min=at)
        if isinstance(label_temperature, Tensor):
            rows = label_temperature.to(y.dtype)
            if offsets is None:
                label_temperature = rows[:, None]
            else:
                label_temperature = rows.repeat_interleave(offsets.diff(), output_size=len(labels))
        # A passage that takes no part may lie above the top; what it is given is not looked at.
        own = ((y - top) / label_temperature).clamp(max=0).exp()
        rest = None if at is None else ((at - top[:, :1]) / label_temperature).exp()
    else:
        own = gain(target, y)
        rest = None if at is None else gain(target, torch.full_like(y[:, :1], at))
    if rest is None:
        return own
    Q, K = labels.shape
    whole = rest.repeat(1, Q * K)
    query = torch.arange(Q, device=scores.device)
    whole.view(Q, Q, K)[query, query] = own
    return whole
