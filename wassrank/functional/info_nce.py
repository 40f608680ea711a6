"""`wassrank.info_nce`."""

from __future__ import annotations

import torch
from torch import Tensor

from wassrank.reference import Terms

from . import checks
from .graded_loss import graded_loss

TERMS = Terms(info_nce=1.0)


def info_nce(
    scores: Tensor,  # [Q, N]; packed lists [T]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K; packed lists [T]
    *,
    temperature: float = 1.0,
    positives: Tensor | None = None,
    negative_grade: int | None = None,
    symmetric: bool = False,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    in_batch: int | None = 0,
    num_levels: int = 8,
    offsets: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    validate: bool = False,
) -> Tensor:
    r"""InfoNCE: the positives' cross-entropy against the passages they compete with, query by query, in nats:

    .. math:: -\frac{1}{|pos|} \sum_{n \in pos} \log \frac{e^{s_n}}{\sum_{k \in pos \cup neg} e^{s_k}},
              \qquad s = scores / temperature.

    Args (the others as for `wassrank.grade_wasserstein`):
        positives: [Q] integers, the positive's place among the query's own passages (0 … K−1; N−1 for [Q, N] labels;
            within its list for packed ones); outside of them, there is none. None: the query's own real passages of its
            best grade, all of them. With one positive a query this is cross_entropy.
        negative_grade: own passages that are no positives are negatives up to this grade; above it, being nearly as
            good as the positive, they are left out. None: all are negatives. −1: none is.
        symmetric: also rank, for each query's positive, that query among all queries, and take the mean of both
            directions. Needs [Q, K] labels, in_batch passages and reduction "mean" or "sum"; of several best passages
            the first is that direction's positive.
        in_batch: a grade, whichever, makes other queries' passages negatives; None leaves them out.

    Returns:
        As `wassrank.grade_wasserstein`. A row whose positive takes no part, or that has none, is empty.
    """
    loss = graded_loss(
        scores,
        labels,
        TERMS,
        temperature=temperature,
        positives=positives,
        negative_grade=negative_grade,
        mask=mask,
        weight=weight,
        in_batch=in_batch,
        num_levels=num_levels,
        offsets=offsets,
        reduction=reduction,
        backend=backend,
        validate=validate,
    )
    if not symmetric:
        return loss
    checks.check_symmetric(scores, labels, in_batch, offsets, reduction)
    if scores.numel() == 0:
        return loss
    # Rows of the other direction: each query's positive, scored against all queries.
    Q, K = labels.shape
    query = torch.arange(Q, device=scores.device)
    real = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
    if real.shape != labels.shape:
        real = real.view(Q, Q, K)[query, query]  # of [Q, N] the own blocks
    if positives is None:
        place = labels.masked_fill(~real, torch.iinfo(labels.dtype).min).argmax(dim=1)  # the first of the best
    else:
        place = positives.long()
    inside = (place >= 0) & (place < K)
    place = torch.where(inside, place, 0)
    takes_part = inside & real[query, place]
    transposed = scores[:, query * K + place].T  # [Q positives, Q queries]
    other = graded_loss(
        transposed,
        torch.zeros_like(transposed, dtype=torch.uint8),
        TERMS,
        temperature=temperature,
        positives=torch.where(takes_part, query, -1),
        mask=None,
        weight=weight,
        in_batch=0,
        num_levels=1,
        offsets=None,
        reduction=reduction,
        backend=backend,
        validate=False,
    )
    return (loss + other) / 2
