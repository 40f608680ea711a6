"""The row losses from embeddings: `wassrank.<loss>_from_embeddings`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wassrank import ops
from wassrank.backends import missing, resolve_backend
from wassrank.processes.group import Shared, present
from wassrank.reference import Terms

from . import checks, embedding_checks
from .exclude import as_tensor, is_best, positive_of, real, with_left_out
from .gaussian_wasserstein import COVARIANCES
from .graded_loss import asks_for_more, say_once
from .shared_embeddings import agree, everyones_mask, everyones_passages


def grade_wasserstein_from_embeddings(
    queries: Tensor,  # [Q, d]
    passages: Tensor,  # [N, d]
    labels: Tensor,  # [Q, K] with N = Q·K, or [Q, N]
    *,
    similarity: str = "dot",
    p: float = 1.0,
    temperature: float | Tensor = 1.0,
    label_temperature: float | Tensor = 1.0,
    target: str | Tensor = "auto",
    mask: Tensor | None = None,
    exclude: Tensor | Sequence[tuple[int, int]] | None = None,
    weight: Tensor | None = None,
    in_batch: int | None = 0,
    num_levels: int = 8,
    position: Sequence[float] | Tensor | None = None,
    reduction: str = "mean",
    gather: bool | str = False,
    group: Shared = None,
    tile: tuple[int, int] | None = None,
    backend: str = "auto",
    validate: bool = False,
) -> Tensor:
    r"""`wassrank.grade_wasserstein` of the scores queries · passagesᵀ, which come tile by tile and are never stored.

    Scores, their softmax and their gradient, [Q, N] each, are what a large batch runs out of memory for. Here the
    memory beside inputs and their gradients is O(Q·num_levels + Q + N) and one tile; the price is that scores are
    computed a second time in the backward: four matrix products instead of three.

    Args (labels and what else is not said here as for `wassrank.grade_wasserstein`, N passages a row):
        queries: [Q, d], float64, float32, float16 or bfloat16. Half-precision embeddings are multiplied and summed in
            float32, as the loss is.
        passages: [N, d] of the same dtype. With [Q, K] labels query-major: query i's own are iK … iK+K−1.
        labels: integer grades in 0 … num_levels−1. (Float labels ask for an order of each row's passages: take the loss
            of scores.)
        similarity: "dot", or "cosine": embeddings are normalised first, gradients go through it. A zero vector stays
            one: score 0 with everything, gradient 0.
        temperature: divides the scores: a number, or a tensor [], learnable: it gets its gradient.
        exclude: known false negatives, which take no part in a row: bool [Q, N], True = excluded, or pairs (query,
            passage), [M, 2] integers or a list. With pairs nothing of size [Q, N] is needed.
        gather: processes of torch.distributed share the batch, which is then all their queries and passages, in the
            order of ranks. True: every process gathers all passages, N·d numbers each. "ring": blocks of passages go
            round from process to process while scores are computed, 2·N·d/processes (and as much for gradients on the
            way back). Scores are exchanged in neither way. The loss is the whole batch's, on every process; each
            one's gradients are those that one process holding all would have for these queries and passages.
            DistributedDataParallel averages gradients where the whole batch's is their sum: multiply the loss by the
            number of processes. `mask`, `exclude`, `target` and dense labels know of all N passages (pairs: this
            process's row, the batch's passage). Not under torch.compile.
        group: which processes share the batch; None: all.
        tile: (rows, columns) of scores computed at a time, in place of what suits the device.
        backend: "auto", "native" (CPU), "triton" (GPUs) or "torch" (any device).

    Returns:
        As `wassrank.grade_wasserstein`; differentiable once, in queries, passages and temperature.

    Raises:
        TypeError, ValueError: as `wassrank.grade_wasserstein`; widths or dtypes of queries and passages that differ, a
            number of passages that is neither K nor Q·K, a tile that is no size or does not fit.
    """
    return _row_losses(queries, passages, labels, Terms(wasserstein=1.0), **_but_these(locals()))


def info_nce_from_embeddings(
    queries: Tensor,  # [Q, d]
    passages: Tensor,  # [N, d]
    labels: Tensor,  # [Q, K] with N = Q·K, or [Q, N]
    *,
    similarity: str = "dot",
    temperature: float | Tensor = 1.0,
    positives: Tensor | None = None,
    negative_grade: int | None = None,
    symmetric: bool = False,
    mask: Tensor | None = None,
    exclude: Tensor | Sequence[tuple[int, int]] | None = None,
    weight: Tensor | None = None,
    in_batch: int | None = 0,
    num_levels: int = 8,
    reduction: str = "mean",
    gather: bool | str = False,
    group: Shared = None,
    tile: tuple[int, int] | None = None,
    backend: str = "auto",
    validate: bool = False,
) -> Tensor:
    """`wassrank.info_nce` of the scores queries · passagesᵀ, which are computed tile by tile and never stored.

    Args: as `wassrank.info_nce` and `wassrank.grade_wasserstein_from_embeddings` have them. Float labels will do: only
        which of a query's passages are best is looked at. `symmetric` is for one process.
    """
    options = _but_these(locals(), "symmetric")
    loss = _row_losses(queries, passages, labels, Terms(info_nce=1.0), **options)
    if not symmetric:
        return loss
    checks.check_symmetric(embedding_checks.shape_of_scores(queries, passages), labels, in_batch, None, reduction)
    if gather:
        raise ValueError("symmetric=True ranks the queries of one process: pass gather=False")
    if labels.numel() == 0:
        return loss
    # Rows of the other direction: each query's positive, scored against all queries.
    place, takes_part = positive_of(labels, real(labels, mask, as_tensor(exclude, labels.device), 0), positives)
    query = torch.arange(len(queries), device=queries.device)
    other = _row_losses(
        passages[query * labels.shape[1] + place],
        queries,
        torch.zeros(len(queries), 1, dtype=torch.uint8, device=queries.device),
        Terms(info_nce=1.0),
        positives=torch.where(takes_part, 0, -1),
        similarity=similarity,
        temperature=temperature,
        weight=weight,
        in_batch=0,
        num_levels=1,
        reduction=reduction,
        tile=tile,
        backend=backend,
    )
    return (loss + other) / 2


def listwise_kl_from_embeddings(
    queries: Tensor,  # [Q, d]
    passages: Tensor,  # [N, d]
    labels: Tensor,  # [Q, K] with N = Q·K, or [Q, N]
    *,
    similarity: str = "dot",
    temperature: float | Tensor = 1.0,
    label_temperature: float | Tensor = 1.0,
    target: str | Tensor = "softmax",
    mask: Tensor | None = None,
    exclude: Tensor | Sequence[tuple[int, int]] | None = None,
    weight: Tensor | None = None,
    in_batch: int | None = 0,
    num_levels: int = 8,
    reduction: str = "mean",
    gather: bool | str = False,
    group: Shared = None,
    tile: tuple[int, int] | None = None,
    backend: str = "auto",
    validate: bool = False,
) -> Tensor:
    """`wassrank.listwise_kl` of the scores queries · passagesᵀ, which are computed tile by tile and never stored.

    Args: as `wassrank.listwise_kl` and `wassrank.grade_wasserstein_from_embeddings` have them. A teacher's
        probabilities are given as `target`, [Q, K] or [Q, N].
    """
    return _row_losses(queries, passages, labels, Terms(kl=1.0), **_but_these(locals()))


def combined_loss_from_embeddings(
    queries: Tensor,  # [Q, d]
    passages: Tensor,  # [N, d]
    labels: Tensor,  # [Q, K] with N = Q·K, or [Q, N]
    *,
    wasserstein: float = 1.0,
    info_nce: float = 0.0,
    kl: float = 0.0,
    similarity: str = "dot",
    p: float = 1.0,
    temperature: float | Tensor = 1.0,
    label_temperature: float | Tensor = 1.0,
    target: str | Tensor = "auto",
    positives: Tensor | None = None,
    negative_grade: int | None = None,
    mask: Tensor | None = None,
    exclude: Tensor | Sequence[tuple[int, int]] | None = None,
    weight: Tensor | None = None,
    in_batch: int | None = 0,
    num_levels: int = 8,
    position: Sequence[float] | Tensor | None = None,
    reduction: str = "mean",
    gather: bool | str = False,
    group: Shared = None,
    tile: tuple[int, int] | None = None,
    backend: str = "auto",
    validate: bool = False,
) -> Tensor:
    """`wassrank.combined_loss` of the scores queries · passagesᵀ: one sweep over their tiles each way for the sum.

    Args: as `wassrank.combined_loss` and `wassrank.grade_wasserstein_from_embeddings` have them.
    """
    checks.check_factors(wasserstein=wasserstein, info_nce=info_nce, kl=kl)
    options = _but_these(locals(), "wasserstein", "info_nce", "kl")
    return _row_losses(queries, passages, labels, Terms(wasserstein, info_nce, kl), **options)


def _but_these(given: dict[str, Any], *own: str) -> dict[str, Any]:
    """A public function's arguments as `_row_losses` takes them: less the tensors every call has, and its own."""
    return {name: value for name, value in given.items() if name not in ("queries", "passages", "labels", *own)}


def gaussian_wasserstein_from_embeddings(
    queries: Tensor,  # [Q, d]
    passages: Tensor,  # [N, d]
    labels: Tensor,  # [Q, K] with N = Q·K, or [Q, N]
    *,
    similarity: str = "dot",
    temperature: float | Tensor = 1.0,
    label_temperature: float | Tensor = 1.0,
    target: str | Tensor = "softmax",
    mask: Tensor | None = None,
    exclude: Tensor | Sequence[tuple[int, int]] | None = None,
    in_batch: float | None = 0,
    num_levels: int = 8,
    covariance: str = "full",
    eps: float = 0.0,
    gather: bool | str = False,
    group: Shared = None,
    tile: tuple[int, int] | None = None,
    backend: str = "auto",
    validate: bool = False,
    **others: Any,
) -> Tensor:
    """`wassrank.gaussian_wasserstein` of the scores queries · passagesᵀ, which come some rows at a time and are never
    stored.

    Memory beside inputs and their gradients is O(Q² + N) numbers in float64 and a chunk of scores with its gradient;
    half-precision passages have their gradient summed in float32, N·d numbers. Five matrix products where scores are
    stored take three.

    Args: as `wassrank.gaussian_wasserstein` and `wassrank.grade_wasserstein_from_embeddings` have them. Labels may be
        floats. Of `tile` the rows count: chunks are of all columns. With gather="ring" the passages go round once for
        each chunk of each sweep.
    """
    checks.check_batch_statistic("gaussian_wasserstein_from_embeddings", others)
    options: dict[str, Any] = {
        "similarity": similarity,
        "temperature": temperature,
        "label_temperature": label_temperature,
        "target": checks.chosen_target(target, labels),
        "mask": mask,
        "exclude": exclude,
        "in_batch": in_batch,
        "num_levels": num_levels,
        "covariance": covariance,
        "eps": eps,
        "tile": tile,
    }

    def check() -> None:
        _check(queries, passages, labels, options, gather, validate)
        checks.check_choice("covariance", covariance, COVARIANCES)
        checks.check_eps(eps, covariance)

    shared, total = None, None
    if gather and present():
        together, sizes = agree(group, check, queries, passages, labels, options)
        total = sum(sizes)
        options["mask"] = everyones_mask(together, mask, labels, total)
        shared = together, everyones_passages(together, sizes, ring=gather == "ring"), max(together.counts)
    else:
        check()
    scores = embedding_checks.shape_of_scores(queries, passages, total)
    options["mask"] = _as_flags(options["mask"], scores)
    options["exclude"] = as_tensor(exclude, queries.device)
    if labels.is_floating_point():
        options["num_levels"] = None
    fused = resolve_backend(queries.device, backend)
    return ops.gaussian_wasserstein_from_embeddings.fused(
        queries, passages, labels, backend=fused, shared=shared, **options
    )


def _row_losses(
    queries: Tensor,
    passages: Tensor,
    labels: Tensor,
    terms: Terms,
    *,
    similarity: str,
    temperature: float | Tensor,
    in_batch: int | None,
    num_levels: int,
    reduction: str,
    tile: tuple[int, int] | None,
    backend: str,
    p: float = 1.0,
    label_temperature: float | Tensor = 1.0,
    target: str | Tensor = "softmax",
    mask: Tensor | None = None,
    exclude: Tensor | Sequence[tuple[int, int]] | None = None,
    weight: Tensor | None = None,
    position: Sequence[float] | Tensor | None = None,
    positives: Tensor | None = None,
    negative_grade: int | None = None,
    gather: bool | str = False,
    group: Shared = None,
    validate: bool = False,
) -> Tensor:
    options: dict[str, Any] = {
        "similarity": similarity,
        "p": p,
        "temperature": temperature,
        "label_temperature": label_temperature,
        "target": checks.chosen_target(target, labels),
        "mask": mask,
        "exclude": exclude,
        "weight": weight,
        "in_batch": in_batch,
        "num_levels": num_levels,
        "position": position,
        "positives": positives,
        "reduction": reduction,
        "tile": tile,
    }

    def check() -> None:
        _check(queries, passages, labels, options, gather, validate)
        scores = embedding_checks.shape_of_scores(queries, passages)
        _check_row_losses(scores, labels, terms, options, negative_grade)

    shared, first, total = None, 0, None
    if gather and present():
        together, sizes = agree(group, check, queries, passages, labels, options)
        first, total = together.first, sum(sizes)
        options["mask"] = everyones_mask(together, mask, labels, total)
        shared = together, everyones_passages(together, sizes, ring=gather == "ring")
    else:
        check()
    scores = embedding_checks.shape_of_scores(queries, passages, total)
    options["position"] = None if position is None else checks.line(position, scores, labels, num_levels, in_batch)
    options["mask"] = _as_flags(options["mask"], scores)
    exclude = as_tensor(exclude, queries.device)
    begin = None if labels.shape == scores.shape else first
    if negative_grade is not None:
        exclude = with_left_out(labels, mask, exclude, positives, negative_grade, begin, scores.shape)
    options["exclude"] = exclude
    if labels.is_floating_point():  # all that InfoNCE knows of them is which are best
        labels = is_best(labels, real(labels, mask, exclude, begin)).to(torch.uint8)
        options["num_levels"], options["in_batch"] = 2, None if in_batch is None else 0
    return ops.level_losses_from_embeddings.fused(
        queries, passages, labels, terms, backend=_backend(queries.device, backend), shared=shared, **options
    )


def _backend(device: torch.device, backend: str) -> str:
    """As `wassrank.resolve_backend`, but that native is the CPU's alone."""
    if device.type == "cpu" or backend not in ("auto", "native"):
        return resolve_backend(device, backend)
    if backend == "native":
        raise ValueError(
            f"backend='native' has no losses from embeddings on {device}: pass backend='auto', 'triton' or 'torch'"
        )
    why = missing("triton", device.type, device.index)
    if why is None:
        return "triton"
    say_once(why)
    return "torch"


def _as_flags(mask: Tensor | None, scores: Tensor) -> Tensor | None:
    """[Q, N], or one flag a passage for every row, [N]."""
    return mask if mask is None or mask.shape == scores.shape else mask.reshape(-1)


def _check(
    queries: Tensor, passages: Tensor, labels: Tensor, options: dict[str, Any], gather: bool | str, validate: bool
) -> None:
    """What all losses ask of their arguments."""
    o = options
    checks.check_choice("similarity", o["similarity"], embedding_checks.SIMILARITIES)
    embedding_checks.check_ways(gather)
    embedding_checks.check_embeddings(queries, passages)
    shared = bool(gather) and present()
    scores = embedding_checks.shape_of_scores(queries, passages)
    checks.check_labels(scores, labels, None, shared=shared)
    if shared:
        scores = embedding_checks.shape_of_scores(queries, passages, _columns_of(o, labels))
    asked = (o[name] for name in ("label_temperature", "target", "mask", "in_batch", "num_levels"))
    checks.check_asked(scores, labels, len(queries), *asked)
    embedding_checks.check_temperature(o["temperature"], queries)
    embedding_checks.check_exclude(o["exclude"], scores, shared=shared)
    embedding_checks.check_tile(o["tile"], queries)
    why = asks_for_more(o["target"], o.get("weight"), o["label_temperature"])
    if why is not None:
        raise ValueError(
            f"from embeddings this cannot be done: {why}; or take the loss of scores, queries @ passages.T"
        )
    if validate:
        num_levels = None if labels.is_floating_point() else o["num_levels"]
        checks.check_values(labels, o["target"], o["mask"], None, num_levels)


def _check_row_losses(
    scores: Tensor, labels: Tensor, terms: Terms, options: dict[str, Any], negative_grade: int | None
) -> None:
    o = options
    if o["weight"] is not None:
        checks.check_one_a_query("weight", o["weight"], scores, len(scores))
    if o["positives"] is not None:
        checks.check_positives(o["positives"], scores, len(scores))
    checks.check_order(o["p"])
    checks.check_choice("reduction", o["reduction"], checks.REDUCTIONS)
    if labels.is_floating_point() and (terms.wasserstein or (terms.kl and not isinstance(o["target"], Tensor))):
        raise TypeError(
            f"from embeddings labels must be integer grades, got {labels.dtype}: a distance between float labels asks "
            f"for the order of each row's passages. Take the loss of scores, queries @ passages.T; for KL pass the "
            f"teacher's probabilities as target"
        )
    if negative_grade is not None and (terms.wasserstein or terms.kl):
        raise ValueError("negative_grade leaves out passages that the other losses of the sum look at")


def _columns_of(options: dict[str, Any], labels: Tensor) -> int:
    """How many passages the processes have together, by what is given of all of them; [q, K] where nothing is."""
    for value in (options["mask"], options["target"], options["exclude"]):
        if not isinstance(value, Tensor) or value.dtype not in (torch.bool, *checks.FLOATS):  # pairs know of no number
            continue
        if value.dim() == 2 and value.shape != labels.shape:
            return value.shape[1]
    return labels.shape[1]
