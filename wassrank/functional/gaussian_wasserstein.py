"""`wassrank.gaussian_wasserstein`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wassrank import ops
from wassrank.backends import resolve_backend
from wassrank.processes.group import Group, Shared, check_same, present, told
from wassrank.reference.gaussian_wasserstein import gaussian_wasserstein as plain_torch

from . import checks
from .graded_loss import asks_for_more, say_once

COVARIANCES = ("full", "diagonal")


def gaussian_wasserstein(
    scores: Tensor,  # [Q, N]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K
    *,
    temperature: float = 1.0,
    label_temperature: float | Tensor = 1.0,
    target: str | Tensor = "softmax",
    mask: Tensor | None = None,
    in_batch: float | None = 0,
    num_levels: int = 8,
    covariance: str = "full",
    eps: float = 0.0,
    gather: bool = False,
    group: Shared = None,
    backend: str = "auto",
    validate: bool = False,
    **others: Any,
) -> Tensor:
    r"""Squared 2-Wasserstein distance between two Gaussians, of which a batch's predictions and targets are samples.

    With P = softmax(scores / temperature) and T what the labels ask for, both [Q, N], a query's row a sample,

    .. math:: \lVert\mu_P - \mu_T\rVert^2 + \mathrm{Tr}\,\Sigma_P + \mathrm{Tr}\,\Sigma_T
              - 2\,\mathrm{Tr}\,(\Sigma_P \Sigma_T)^{1/2}

    with covariances over 1/(Q − 1): the loss of Esfandiarpoor et al. (Findings of EMNLP 2025), exactly. How it is
    computed without N × N matrices: `wassrank/reference/gaussian_wasserstein.py`.

    Know its limits. It compares statistics of the batch, so exchanging two queries' predictions leaves it unchanged:
    it needs a start that already ranks. And the targets share one softmax over the whole batch, so that passages of
    other queries take mass as the batch grows, 89 % of it at Q = 64, K = 4, label_temperature 1 and uniform grades
    0 … 3; `label_temperature`, `in_batch` and `target` control that, `wassrank.target_mass_on_graded` tells.

    Args:
        scores, temperature, label_temperature, target, mask, in_batch, num_levels, validate: as for
            `wassrank.grade_wasserstein`.
        labels: grades, [Q, N] or [Q, K] with N = Q·K, integers in 0 … num_levels−1 or any floats.
        covariance: "full", or "diagonal": each passage's column alone, Σ_n (μ_P − μ_T)² + (σ_P − σ_T)².
        eps: for "full", replaces each singular value σ under the trace of the root by √(σ² + eps). 0 is exact. 1e-15
            gives the values of the published implementation, which makes the loss too small, and negative where P = T.
        gather: with torch.distributed initialised, `scores` [q, N] and `labels` [q, K] are this process's rows of a
            batch that the processes of `group` (None: all) share: N counts the whole batch's passages, query-major in
            the processes' order, and a mask [q, K] is of this process's own passages. The loss is the whole batch's,
            the same on every process; the gradient is what one process that held the whole batch would find for these
            rows. Processes exchange statistics, [Q, Q], [Q, K] and [N] numbers, never scores; labels and masks [q, N]
            cost an exchange of targets, tile by tile, forward and backward. Each process backpropagates through its
            own rows alone; DistributedDataParallel averages gradients where the whole batch's is their sum, so
            multiply the loss by the number of processes. Without torch.distributed it changes nothing. Not under
            torch.compile.
        backend: "auto", "native", "triton" or "torch"; see `wassrank.resolve_backend`.

    weight, reduction and offsets have no meaning for a statistic of the whole batch and are refused.

    Returns:
        A scalar, float64 for float64 scores, else float32; ≥ 0 but for rounding of about 1e-16 of the traces. Computed
        in float64 for every dtype: near P = T it is a small difference of large traces.

        A query without a real passage, or whose target has no mass, is no sample: Q counts the others. With one sample
        the covariances are zero and the loss is ‖μ_P − μ_T‖²; with none it is 0.

        Where predictions do not vary, or vary in a direction in which targets do not, the covariance term has a kink;
        the gradient there is the smallest subgradient (singular values that are zero but for rounding get none).
        "native" and "triton" are differentiable once and in scores alone, and keep Q·(Q + K + 8) + 4N float64 numbers
        for the backward; "torch" twice, and in target and label_temperature too: "auto" takes it where one of those
        asks for a gradient.

    Raises:
        TypeError, ValueError: as `wassrank.grade_wasserstein`. A score of NaN or +inf makes loss and gradient NaN.
    """
    options: dict[str, Any] = {
        "temperature": temperature,
        "label_temperature": label_temperature,
        "target": checks.chosen_target(target, labels),
        "mask": mask,
        "in_batch": in_batch,
        "num_levels": num_levels,
        "covariance": covariance,
        "eps": eps,
    }
    checked = functools.partial(_check, scores, labels, options, others, validate, backend)
    together = None
    if gather and present():
        device = scores.device if isinstance(scores, Tensor) else torch.device("cpu")
        together = _agree(group, functools.partial(checked, shared=True), scores, labels, options, device)
        if mask is not None and mask.shape == labels.shape != scores.shape:
            options["mask"] = together.rows(mask).reshape(-1)
        fused = resolve_backend(scores.device, backend)
    else:
        fused = checked(shared=False)
    if labels.is_floating_point():
        options["num_levels"] = None
    if fused == "torch":
        return plain_torch(scores, labels, **options)
    return ops.gaussian_wasserstein.fused(scores, labels, backend=fused, group=together, **options)


def _check(
    scores: Tensor,
    labels: Tensor,
    options: dict[str, Any],
    others: dict[str, Any],
    validate: bool,
    backend: str,
    *,
    shared: bool,
) -> str:
    """Raises for what is wrong with one process's arguments; returns the backend."""
    o = options
    checks.check_batch_statistic("gaussian_wasserstein", others)
    checks.check_scores(scores, None)
    checks.check_labels(scores, labels, None, shared=shared)
    asked = (o[name] for name in ("label_temperature", "target", "mask", "in_batch", "num_levels"))
    checks.check_asked(scores, labels, len(scores), *asked)
    checks.check_positive("temperature", o["temperature"], "scores are divided by it")
    checks.check_choice("covariance", o["covariance"], COVARIANCES)
    checks.check_eps(o["eps"], o["covariance"])
    if validate:
        num_grades = None if labels.is_floating_point() else o["num_levels"]
        checks.check_values(labels, o["target"], o["mask"], None, num_grades)
    resolved = resolve_backend(scores.device, backend)
    if resolved != "torch":
        why = asks_for_more(o["target"], None, o["label_temperature"])
        if why is not None:
            if backend != "auto" or shared:
                remedy = "gather=False" if shared else "backend='auto' or 'torch'"
                raise ValueError(f"backend={backend!r} cannot do this: {why}; pass {remedy}")
            say_once(why)
            resolved = "torch"
    elif shared:
        raise ValueError(
            "gather=True is for the fused backends: plain torch would want everybody's scores in one place"
        )
    return resolved


def _agree(
    group: Shared,
    check: Callable[[], object],
    scores: Tensor,  # [q, N]
    labels: Tensor,  # [q, K] or [q, N]
    options: dict[str, Any],
    device: torch.device,
) -> Group:
    """Makes sure that all processes bring parts of one batch.

    Raises:
        In all processes, if one's arguments are wrong or shapes do not fit together."""

    def facts() -> tuple[list[int], Any]:
        same = {name: _form(value, scores) if isinstance(value, Tensor) else value for name, value in options.items()}
        return [*scores.shape, labels.shape[1]], (same, labels.dtype)

    said, same = told(group, check, facts, device)
    shapes = ", ".join(f"[{q}, {N}] with [{q}, {K}]" for q, N, K in said)
    if len({(N, K) for _, N, K in said}) > 1:
        raise ValueError(
            f"gather=True: every process must score the same N passages and label the same K a query; processes "
            f"hold scores with labels {shapes}"
        )
    check_same(
        same,
        "temperatures, target, in_batch, num_levels, covariance, eps, and whether there are mask and label dtypes",
    )
    Q, (_, N, K) = sum(q for q, *_ in said), said[0]
    if N not in (K, Q * K):
        raise ValueError(
            f"gather=True: {Q} queries in all with K={K} labelled passages each need scores of Q*K={Q * K} columns, "
            f"query-major over the whole batch, or labels of all N passages; processes hold scores with labels {shapes}"
        )
    return Group(group, [q for q, *_ in said])


def _form(value: Tensor, scores: Tensor) -> str:
    return f"{value.dim()}, of {'all' if value.shape == scores.shape else 'own'} passages"
