"""`wassrank.grade_wasserstein`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wassrank.reference import Terms

from .graded_loss import graded_loss

TERMS = Terms(wasserstein=1.0)


def grade_wasserstein(
    scores: Tensor,  # [Q, N]; packed lists [T]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K; packed lists [T]
    *,
    p: float = 1.0,
    temperature: float = 1.0,
    label_temperature: float | Tensor = 1.0,
    target: str | Tensor = "auto",
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    in_batch: float | None = 0,
    num_levels: int = 8,
    position: Sequence[float] | Tensor | None = None,
    order: Tensor | None = None,
    offsets: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    validate: bool = False,
) -> Tensor:
    r"""Exact 1-D transport cost between a model's and the labels' distribution over grades, query by query.

    P_i = softmax(scores_i / temperature) puts each passage's probability at its grade on the real line, T_i does the
    same with the probabilities the labels deserve, and the loss of query i is

    .. math:: W_p^p\Big(\sum_n P_{in}\,\delta(y_{in}),\; \sum_n T_{in}\,\delta(y_{in})\Big).

    Moving probability to a passage one grade off costs 1, three grades off 3^p. Passages of equal grade are
    interchangeable and a row's loss depends on that row alone. For the formula and the gradient's derivation see
    `wassrank/reference/transport.py`.

    Args:
        scores: [Q, N], float64, float32, float16 or bfloat16; higher is better. A −inf score is an impossible
            passage and counts as masked; NaN or +inf makes the row's loss and gradient NaN. With `offsets`, the lists
            one behind the other, [T].
        labels: grades. Either [Q, N], a grade for every passage, or [Q, K] with N = Q·K: in-batch passages,
            query-major, query i's own in columns iK … iK+K−1; the dense [Q, N] matrix is then never built. Integers in
            0 … num_levels−1 are few levels that passages share; floats (a teacher's scores) give each passage a place
            of its own. Equal labels are interchangeable either way.
        p: order of the distance, any real ≥ 1. The cost is W_p^p: in units of grades to the power p.
        temperature: divides the scores.
        label_temperature: divides the labels when target is "softmax", a number or [Q], one a query; unused otherwise.
        target: T, the distribution the labels ask for: "softmax" of the labels; "linear" gains y, or "exp2" gains
            2^y − 1, normalised over the row (grade 0 and below get nothing); or a tensor of non-negative masses, [Q, N]
            or (own passages) [Q, K], packed [T], normalised over the row's real passages. "auto" is "linear" for
            integer labels and "softmax" for floats, which may be below zero (docs/study.md says why; the default of
            `wassrank.listwise_kl` and `wassrank.gaussian_wasserstein` is "softmax", as published).
        mask: bool, True = a real passage. The shape of scores, or with [Q, K] labels [Q, K] (a padded passage is
            padding for every query). A padded passage has no probability on either side and a gradient of exactly 0,
            whatever its score and label.
        weight: [Q], non-negative, one a query.
        in_batch: with [Q, K] labels, the grade that other queries' passages count as; None leaves them out.
        num_levels: how many integer grades there may be, at most 32. A capacity, not part of the result.
        position: the coordinates that take the grades' place on the line (gains, rank discounts). For integer labels
            num_levels numbers, rising or falling with the grade; for float labels a tensor of their
            shape. T still comes from the labels.
        order: for float labels, what `wassrank.grade_order(labels)` gave (of `position`, where that is given), so that
            a step need not sort. It depends on the labels alone: make it once, use it as long as they stay the same.
        offsets: [Q + 1] integers. Lists of any lengths, packed without padding: query i's passages are elements
            offsets[i] … offsets[i+1] − 1 of scores and labels (and of mask, target and position). Each gives what it
            would give alone.
        reduction: "mean" (weighted, over rows that are not empty), "sum", or "none" for the [Q] weighted losses.
        backend: "auto", "native", "triton" or "torch"; see `wassrank.resolve_backend`.
        validate: also check what is in the tensors (labels, a given target, offsets). That reads them, so on a GPU it
            waits for the device: for finding a mistake, not for training.

    Returns:
        float64 for float64 scores, else float32 (half-precision scores are read as they are and accumulated in float32,
        so the result is that of cross_entropy's autocast rule, without a float32 copy of the scores). A scalar, or [Q]
        for reduction="none".

        An empty row (no real passage, or a target without mass, such as "linear" with all grades 0) has loss 0,
        gradient 0 and is not counted by the mean; a batch of empty rows, or of none, gives 0.

        Where P's and T's running masses tie, the gradient is the midpoint of the one-sided ones: a subgradient, 0 at
        P = T.

        Memory: forward keeps num_levels + 1 numbers a row for the backward; nothing of size [Q, N] but the gradient.
        For float labels it keeps a number for each labelled passage (and its place, where there is an `order`).
        The "native" and "triton" backends are differentiable once and in scores alone; "torch" any number of times, and
        with respect to target, weight and label_temperature too: "auto" takes it where one of those asks for a
        gradient, and says so once.

    Raises:
        TypeError: a dtype that cannot be meant (integer scores, a mask that is not bool).
        ValueError: shapes or devices that do not fit, p < 1, a temperature ≤ 0, an unknown choice. A grade outside
            0 … num_levels−1, or a label that is NaN or infinite, raises for CPU tensors; on a GPU, where looking would
            stall the device, it makes its row's loss and gradient NaN. An `order` of other labels raises on the CPU;
            elsewhere it gives another loss.
    """
    return graded_loss(
        scores,
        labels,
        TERMS,
        p=p,
        temperature=temperature,
        label_temperature=label_temperature,
        target=target,
        mask=mask,
        weight=weight,
        in_batch=in_batch,
        num_levels=num_levels,
        position=position,
        order=order,
        offsets=offsets,
        reduction=reduction,
        backend=backend,
        validate=validate,
    )
