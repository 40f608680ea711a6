"""`wassrank.listwise_kl`."""

from __future__ import annotations

from torch import Tensor

from wassrank.reference import Terms

from .graded_loss import graded_loss

TERMS = Terms(kl=1.0)


def listwise_kl(
    scores: Tensor,  # [Q, N]; packed lists [T]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K; packed lists [T]
    *,
    temperature: float = 1.0,
    label_temperature: float | Tensor = 1.0,
    target: str | Tensor = "softmax",
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    in_batch: float | None = 0,
    num_levels: int = 8,
    offsets: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    validate: bool = False,
) -> Tensor:
    r"""Kullback-Leibler divergence KL(T ‖ P) between what the labels ask for and what the model says, query by query,
    in nats, P = softmax(scores / temperature):

    .. math:: \sum_n T_n \log \frac{T_n}{P_n}.

    F.kl_div(log_softmax(scores / temperature), T, reduction="batchmean"), for every target, mask and batch that
    `wassrank.grade_wasserstein` takes; arguments, result and errors are that function's.
    """
    return graded_loss(
        scores,
        labels,
        TERMS,
        temperature=temperature,
        label_temperature=label_temperature,
        target=target,
        mask=mask,
        weight=weight,
        in_batch=in_batch,
        num_levels=num_levels,
        offsets=offsets,
        reduction=reduction,
        backend=backend,
        validate=validate,
    )
