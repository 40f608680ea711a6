"""Graded losses for sentence-transformers' bi-encoders (`SentenceTransformer`).

    from wassrank.integrations.sentence_transformers import WassersteinLoss

    loss = WassersteinLoss(model, scale=20, target="linear")  # where MultipleNegativesRankingLoss(model) was

A dataset's first column is the query, each other text column a passage, the label column a list of as many grades.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wassrank import modules

from .citations import GRAD_CACHE, SYCL
from .in_batch import among_all, whole_batch
from .labels import split_missing
from .needs import needs
from .scale import scale_of

with needs("sentence-transformers", "st"):
    from sentence_transformers.base.losses.gradcache import CachedLossMixin
    from sentence_transformers.base.losses.merged_forward import embed_columns
    from sentence_transformers.util import (
        all_gather,
        all_gather_with_grad,
        cos_sim,
        dot_score,
        euclidean_sim,
        get_rank,
        get_world_size,
        manhattan_sim,
        similarity_fct_name,
    )

Similarity = Callable[[Tensor, Tensor], Tensor]

SIMILARITIES: dict[str, Similarity] = {f.__name__: f for f in (cos_sim, dot_score, euclidean_sim, manhattan_sim)}
FROM_EMBEDDINGS = {cos_sim: "cosine", dot_score: "dot"}
"""Those of which scores need not be stored."""


class _Loss(nn.Module):
    """A loss of wassrank as this framework calls it.

    Args:
        model: the SentenceTransformer.
        scale: what scores are multiplied by, 1 / temperature; None: 20, this framework's default. `temperature` may be
            given instead.
        similarity_fct: scores of queries [B, d] and passages [N, d], a function or the name of one: "cos_sim",
            "dot_score", "euclidean_sim", "manhattan_sim".
        gather_across_devices: rank each query against the passages of all processes, which have equally many queries.
        missing_label: the label that says "no passage here", where queries have different numbers of passages: the
            text in such a place is embedded (the framework does that) and takes no part. None: every label is a grade.
        options: those of the wassrank loss: p, label_temperature, target, in_batch (None: a query is compared with its
            own passages alone), num_levels, …

    Requirements:
        1. A dataset whose label column holds a list of grades a row, one a passage column: integers from 0 up, or
           floats (a teacher's scores).
        2. The same number of passage columns all over; for fewer passages see `missing_label`.

    Inputs:
        (query, passage_1, …, passage_n) with labels [grade_1, …, grade_n], in any order of grades.

    Relations:
        With labels [1, 0, …, 0] `InfoNCELoss` is MultipleNegativesRankingLoss. The others tell grades apart. The
        Cached… form gives the same loss and reaches larger batches.
    """

    core: ClassVar[type[modules._Loss]]
    of_the_batch: ClassVar[bool] = False  # a statistic of all processes' rows, no mean over rows
    ways: ClassVar[tuple[bool | str, ...]] = (False, True)  # to gather

    wassrank: modules._Loss

    def __init__(
        self,
        model: nn.Module,
        scale: float | None = None,
        similarity_fct: Similarity | str = cos_sim,
        gather_across_devices: bool | str = False,
        missing_label: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.model = model
        self.scale = scale_of(scale, options)
        self.similarity_fct = _similarity(similarity_fct)
        self.gather_across_devices = gather_across_devices
        self.missing_label = missing_label
        if gather_across_devices not in self.ways:
            raise ValueError(f"gather_across_devices must be one of {self.ways}, got {gather_across_devices!r}")
        if "gather" in options or "group" in options:
            raise TypeError("passages are shared by all processes or none: pass gather_across_devices=True")
        if options.get("reduction", "mean") == "none":
            raise ValueError("the trainer takes one number a batch: reduction must be 'mean' or 'sum', got 'none'")
        self.wassrank = type(self).core(temperature=1 / self.scale, **options)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        return self.compute_loss_from_embeddings(embed_columns(self.model, sentence_features), labels)

    def compute_loss_from_embeddings(
        self,
        embeddings: list[Tensor],  # [B, d] of each column: the queries, their first passages, their second, …
        labels: Tensor,  # [B, n passages]
    ) -> Tensor:
        queries, passages, grades, mask = self._batch(embeddings, labels)
        in_batch = self.wassrank.options["in_batch"]
        # Without other queries' passages a mean over rows has no use for other processes'.
        gathers = self.gather_across_devices and get_world_size() > 1 and (self.of_the_batch or in_batch is not None)
        if gathers:
            passages = all_gather_with_grad(passages)
        scores = self._scores(queries, passages)
        if not gathers:
            return self._core(scores, grades, mask=mask)
        if self.of_the_batch:
            return whole_batch(self._core(scores, grades, mask=mask, gather=True), get_world_size())
        if mask is not None:
            mask = all_gather(mask)
        return self._core(*among_all(scores, grades, get_rank(), get_world_size()), mask=mask)

    def _core(self, scores: Tensor, grades: Tensor, **given: Any) -> Tensor:
        loss: Tensor = self.wassrank(scores, grades, **given)
        return loss

    def _scores(self, queries: Tensor, passages: Tensor) -> Tensor:
        """In float32, under autocast too: a bfloat16 cosine of 0.9 is off by up to 0.002, 0.04 once scaled by 20."""
        with torch.autocast(queries.device.type, enabled=False):
            if queries.dtype != torch.float64:
                queries, passages = queries.float(), passages.float()
            scores: Tensor = self.similarity_fct(queries, passages)
        return scores

    def _batch(self, embeddings: list[Tensor], labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries [B, d], their passages query-major [B·n, d], grades [B, n] and which are real.

        The framework has the passages column by column, all queries' first ones, then all second ones: here a query's
        own stand together, as the losses want them."""
        columns = embeddings[1:]
        if not columns:
            raise ValueError(
                f"{type(self).__name__} got one text column: the dataset needs the query's column first, then at "
                f"least one passage column"
            )
        if labels is None:
            raise ValueError(
                f"{type(self).__name__} needs grades: add a column named 'label' that holds a list of {len(columns)} "
                f"grades a row, one for each of the passage columns"
            )
        if labels.dim() == 1 and len(columns) == 1:
            labels = labels.unsqueeze(1)
        if labels.dim() != 2 or labels.shape[1] != len(columns):
            held = f"{labels.shape[1]} grades" if labels.dim() == 2 else "one number"
            raise ValueError(
                f"{type(self).__name__}: the dataset has {len(columns)} passage columns behind the query and its label "
                f"column holds {held} a row (labels {tuple(labels.shape)}): make it a list of {len(columns)} grades, "
                f"in the order of the columns; where a row has fewer passages, give the rest an empty text and the "
                f"label missing_label=…"
            )
        if len(columns) == 1 and self.wassrank.options["in_batch"] is None:
            raise ValueError(
                f"{type(self).__name__}: one passage a query and in_batch=None leave nothing to rank it against, the "
                f"loss would always be 0: add passage columns, or let other queries' passages count (in_batch=0)"
            )
        grades, mask = split_missing(labels, self.missing_label)
        return embeddings[0], torch.stack(columns, 1).flatten(0, 1), grades, mask

    def get_config_dict(self) -> dict[str, Any]:
        """What made this loss, in plain values: WassersteinLoss(model, **config) makes it again, unless similarity_fct
        is a function of one's own, of which this has the name."""
        held = {
            name: value
            for name, value in self.wassrank.options.items()
            if (name not in ("temperature", "gather", "group") and value is not None) or name == "in_batch"
        }
        return {
            "scale": self.scale,
            "similarity_fct": similarity_fct_name(self.similarity_fct),
            "gather_across_devices": self.gather_across_devices,
            "missing_label": self.missing_label,
            **held,
        }

    @property
    def temperature(self) -> float:
        return 1 / self.scale

    @property
    def citation(self) -> str:
        return SYCL


def _similarity(given: Similarity | str) -> Similarity:
    if not isinstance(given, str):
        return given
    if given not in SIMILARITIES:
        raise ValueError(f"similarity_fct must be a function or one of {tuple(SIMILARITIES)}, got {given!r}")
    return SIMILARITIES[given]


class WassersteinLoss(_Loss):
    """`wassrank.grade_wasserstein`: what it costs to move the scores' probability to where the labels want it, along
    the axis of grades."""

    core = modules.GradeWassersteinLoss


class GaussianWassersteinLoss(_Loss):
    """`wassrank.gaussian_wasserstein`, the loss of Esfandiarpoor et al.: it compares statistics of the batch."""

    core = modules.GaussianWassersteinLoss
    of_the_batch = True


class ListwiseKLLoss(_Loss):
    """`wassrank.listwise_kl`."""

    core = modules.ListwiseKLLoss


class InfoNCELoss(_Loss):
    """`wassrank.info_nce`: the best grade is positive, the others are negative."""

    core = modules.InfoNCELoss


class CombinedLoss(_Loss):
    """`wassrank.combined_loss`: a weighted sum of the three."""

    core = modules.CombinedLoss


class _Cached(CachedLossMixin, _Loss):  # type: ignore[misc]  # mypy does not follow sentence-transformers
    """The same loss for batches whose activations do not fit: each mini-batch is embedded twice, the second time with
    the gradient that the whole batch's loss has there (GradCache); and scores come tile by tile and are never stored.

    Args:
        mini_batch_size: texts embedded at a time.
        mini_batch_num_tokens: as many texts at a time as have so many tokens, instead.
        similarity_fct: cos_sim or dot_score.
        gather_across_devices: "ring" hands passages round instead of having all of them everywhere.
        The others: as for the loss without cache; labels are integers.
    """

    ways = (False, True, "ring")

    def __init__(
        self,
        model: nn.Module,
        scale: float | None = None,
        similarity_fct: Similarity | str = cos_sim,
        gather_across_devices: bool | str = False,
        missing_label: int | None = None,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, scale, similarity_fct, gather_across_devices, missing_label, **options)
        if self.similarity_fct not in FROM_EMBEDDINGS:
            raise ValueError(
                f"{type(self).__name__} computes scores tile by tile and knows cos_sim and dot_score; for "
                f"{similarity_fct_name(self.similarity_fct)} take {type(self).__name__.removeprefix('Cached')}"
            )
        if mini_batch_size < 1 or (mini_batch_num_tokens is not None and mini_batch_num_tokens < 1):
            raise ValueError(
                f"mini_batch_size and mini_batch_num_tokens must be at least 1, got {mini_batch_size} and "
                f"{mini_batch_num_tokens}"
            )
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.show_progress_bar = show_progress_bar

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        loss: Tensor = CachedLossMixin.forward_cached(self, sentence_features, labels)
        return loss

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """Of mini-batches' embeddings, a list a column."""
        loss = self.compute_loss_from_embeddings([torch.cat(column) for column in reps], labels)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        queries, passages, grades, mask = self._batch(embeddings, labels)
        if grades.is_floating_point() and not self.of_the_batch:
            raise TypeError(
                f"{type(self).__name__} takes integer grades, the label column holds {grades.dtype}: cast it, "
                f"dataset.cast_column('label', Sequence(Value('int64'))), or take "
                f"{type(self).__name__.removeprefix('Cached')}"
            )
        gather = get_world_size() > 1 and self.gather_across_devices
        similarity = FROM_EMBEDDINGS[self.similarity_fct]
        loss = self.wassrank.from_embeddings(queries, passages, grades, mask=mask, similarity=similarity, gather=gather)
        return whole_batch(loss, get_world_size()) if gather else loss

    def get_config_dict(self) -> dict[str, Any]:
        cached = {"mini_batch_size": self.mini_batch_size, "mini_batch_num_tokens": self.mini_batch_num_tokens}
        return super().get_config_dict() | cached

    @property
    def citation(self) -> str:
        return SYCL + GRAD_CACHE


class CachedWassersteinLoss(_Cached, WassersteinLoss):
    """`WassersteinLoss` for large batches."""


class CachedGaussianWassersteinLoss(_Cached, GaussianWassersteinLoss):
    """`GaussianWassersteinLoss` for large batches, which it wants."""


class CachedListwiseKLLoss(_Cached, ListwiseKLLoss):
    """`ListwiseKLLoss` for large batches."""


class CachedInfoNCELoss(_Cached, InfoNCELoss):
    """`InfoNCELoss` for large batches."""


class CachedCombinedLoss(_Cached, CombinedLoss):
    """`CombinedLoss` for large batches."""
