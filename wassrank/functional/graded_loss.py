"""What the row losses' public functions share: checks, defaults, the choice of a backend."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wassrank import ops, reference
from wassrank.backends import resolve_backend
from wassrank.reference import Terms

from . import checks
from .grade_order import grade_order


def graded_loss(
    scores: Tensor,  # [Q, N]; packed [T]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K; packed [T]
    terms: Terms,
    *,
    temperature: float,
    mask: Tensor | None,
    weight: Tensor | None,
    in_batch: float | None,
    num_levels: int,
    offsets: Tensor | None,
    reduction: str,
    backend: str,
    validate: bool,
    p: float = 1.0,
    label_temperature: float | Tensor = 1.0,
    target: str | Tensor = "softmax",
    position: Sequence[float] | Tensor | None = None,
    order: Tensor | None = None,
    positives: Tensor | None = None,
    negative_grade: float | None = None,
) -> Tensor:
    """The weighted sum of the losses; arguments as `wassrank.combined_loss` documents them."""
    checks.check_scores(scores, offsets)
    checks.check_labels(scores, labels, offsets)
    Q = checks.queries(scores, offsets)
    floats = labels.is_floating_point()
    target = checks.chosen_target(target, labels)
    checks.check_asked(scores, labels, Q, label_temperature, target, mask, in_batch, num_levels)
    if weight is not None:
        checks.check_one_a_query("weight", weight, scores, Q)
    if positives is not None:
        checks.check_positives(positives, scores, Q)
    checks.check_positive("temperature", temperature, "scores are divided by it")
    checks.check_order(p)
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    if order is not None:
        checks.check_ordering(order, labels)
    where = None if position is None else checks.line(position, scores, labels, num_levels, in_batch)
    if validate:
        checks.check_values(labels, target, mask, offsets, None if floats else num_levels)

    resolved = resolve_backend(scores.device, backend)
    plain = not floats and negative_grade is None
    why = None
    if resolved != "torch":
        if weight is not None or isinstance(target, Tensor) or isinstance(label_temperature, Tensor):
            why = asks_for_more(target, weight, label_temperature)
        if why is None and not plain:
            why = ops.graded_loss.beyond(terms, negative_grade)
    if why is not None:
        if backend != "auto":
            raise ValueError(f"backend={backend!r} cannot do this: {why}; pass backend='auto' or 'torch'")
        say_once(why)
        resolved = "torch"
    options: dict[str, Any] = {
        "p": p,
        "temperature": temperature,
        "label_temperature": label_temperature,
        "target": target,
        "mask": mask,
        "weight": weight,
        "in_batch": in_batch,
        "num_levels": None if floats else num_levels,
        "position": where,
        "positives": positives,
        "offsets": offsets,
        "reduction": reduction,
    }
    if resolved == "torch":
        return reference.graded_loss(scores, labels, terms, negative_grade=negative_grade, **options)
    if plain:
        return ops.level_losses.fused(resolved)(scores, labels, terms, **options)
    if floats and terms.wasserstein and order is None and not (resolved == "native" and scores.is_cpu):
        order = grade_order(labels if where is None else where, offsets)
    return ops.graded_loss.fused(resolved)(scores, labels, terms, negative_grade=negative_grade, order=order, **options)


def asks_for_more(target: str | Tensor, weight: Tensor | None, label_temperature: float | Tensor) -> str | None:
    """What the fused kernels cannot do of a call: gradients but for scores. None where they can."""
    if torch.is_grad_enabled():
        given = {"target": target, "weight": weight, "label_temperature": label_temperature}
        for name, value in given.items():
            if isinstance(value, Tensor) and value.requires_grad:
                return (
                    f"{name} asks for a gradient, and the fused kernels give one to scores alone (pass {name}.detach() "
                    f"where none is wanted)"
                )
    return None


@functools.cache
def say_once(why: str) -> None:
    warnings.warn(f"wassrank: using the slower plain-torch backend: {why}", RuntimeWarning, stacklevel=5)


# A warning is nothing to trace.
torch.compiler.assume_constant_result(say_once)
