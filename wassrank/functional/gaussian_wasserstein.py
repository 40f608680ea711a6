"""`wassrank.gaussian_wasserstein`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from wassrank import ops
from wassrank.backends import resolve_backend
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
        backend: "auto", "native", "triton" or "torch"; see `wassrank.resolve_backend`. This loss has "native" kernels
            on the CPU and "triton" ones on a GPU; where "auto" means "native" there, it takes "torch" and says so once.

    weight, reduction and offsets have no meaning for a statistic of the whole batch and are refused.

    Returns:
        A scalar, float64 for float64 scores, else float32; ≥ 0 but for rounding of about 1e-16 of the traces. Computed
        in float64 for every dtype: near P = T it is a small difference of large traces.

        A query without a real passage, or whose target has no mass, is no sample: Q counts the others. With one sample
        the covariances are zero and the loss is ‖μ_P − μ_T‖²; with none it is 0.

        Where predictions do not vary, or vary in a direction in which targets do not, the covariance term has a kink;
        the gradient there is the smallest subgradient (singular values that are zero but for rounding get none).
        "native" and "triton" are differentiable once and in scores alone, and keep Q·(Q + K + 5) numbers for the
        backward; "torch" twice, and in target and label_temperature too: "auto" takes it where one of those asks for a
        gradient.

    Raises:
        TypeError, ValueError: as `wassrank.grade_wasserstein`. A score of NaN or +inf makes loss and gradient NaN.
    """
    checks.check_batch_statistic("gaussian_wasserstein", others)
    checks.check_scores(scores, None)
    checks.check_labels(scores, labels, None)
    checks.check_asked(scores, labels, len(scores), label_temperature, target, mask, in_batch, num_levels)
    checks.check_positive("temperature", temperature, "scores are divided by it")
    checks.check_choice("covariance", covariance, COVARIANCES)
    checks.check_eps(eps, covariance)
    num_grades = None if labels.is_floating_point() else num_levels
    if validate:
        checks.check_values(labels, target, mask, None, num_grades)

    resolved = resolve_backend(scores.device, backend)
    if resolved != "torch":
        why = ops.gaussian_wasserstein.beyond(resolved, scores.device) or asks_for_more(target, None, label_temperature)
        if why is not None:
            if backend != "auto":
                raise ValueError(f"backend={backend!r} cannot do this: {why}; pass backend='auto' or 'torch'")
            say_once(why)
            resolved = "torch"
    options: dict[str, Any] = {
        "temperature": temperature,
        "label_temperature": label_temperature,
        "target": target,
        "mask": mask,
        "in_batch": in_batch,
        "num_levels": num_grades,
        "covariance": covariance,
        "eps": eps,
    }
    if resolved == "torch":
        return plain_torch(scores, labels, **options)
    return ops.gaussian_wasserstein.fused(scores, labels, backend=resolved, **options)
