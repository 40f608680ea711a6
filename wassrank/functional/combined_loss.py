"""`wassrank.combined_loss`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wassrank.reference import Terms

from . import checks
from .graded_loss import graded_loss


def combined_loss(
    scores: Tensor,  # [Q, N]; packed lists [T]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K; packed lists [T]
    *,
    wasserstein: float = 1.0,
    info_nce: float = 0.0,
    kl: float = 0.0,
    p: float = 1.0,
    temperature: float = 1.0,
    label_temperature: float | Tensor = 1.0,
    target: str | Tensor = "auto",
    positives: Tensor | None = None,
    negative_grade: int | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    in_batch: float | None = 0,
    num_levels: int = 8,
    position: Sequence[float] | Tensor | None = None,
    offsets: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    validate: bool = False,
) -> Tensor:
    """wasserstein · grade_wasserstein + info_nce · info_nce + kl · listwise_kl, in one pass over the scores each way.

    The grade-axis distance's gradient is proportional to P: a relevant passage with next to no probability hardly
    moves. InfoNCE's and KL's are not, so a share of either is the usual companion.

    Args: the losses' factors, none negative; everything else as the three functions have it. One temperature and one
        target serve all of them.

    Returns:
        As `wassrank.grade_wasserstein`. The mean is over rows that count for at least one of the losses (a row without
        gains under target "linear" still has its InfoNCE).
    """
    checks.check_factors(wasserstein=wasserstein, info_nce=info_nce, kl=kl)
    return graded_loss(
        scores,
        labels,
        Terms(wasserstein, info_nce, kl),
        p=p,
        temperature=temperature,
        label_temperature=label_temperature,
        target=target,
        positives=positives,
        negative_grade=negative_grade,
        mask=mask,
        weight=weight,
        in_batch=in_batch,
        num_levels=num_levels,
        position=position,
        offsets=offsets,
        reduction=reduction,
        backend=backend,
        validate=validate,
    )
