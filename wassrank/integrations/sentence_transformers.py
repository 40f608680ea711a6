"""Graded losses for sentence-transformers' bi-encoders (`SentenceTransformer`).

    from wassrank.integrations.sentence_transformers import WassersteinLoss

    loss = WassersteinLoss(model, scale=20, target="linear")  # where MultipleNegativesRankingLoss(model) was

A dataset's first column is the query, each other text column a passage, the label column a list of as many grades.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .citations import GRAD_CACHE, SYCL
from .graded_columns import GradedColumns, Similarity
from .in_batch import summed
from .losses import Combined, GaussianWasserstein, InfoNCE, ListwiseKL, Wasserstein
from .needs import needs

with needs("sentence-transformers", "st"):
    from sentence_transformers.base.losses.gradcache import CachedLossMixin
    from sentence_transformers.base.losses.merged_forward import embed_columns
    from sentence_transformers.util import (
        all_gather_with_grad,
        cos_sim,
        dot_score,
        euclidean_sim,
        manhattan_sim,
        similarity_fct_name,
    )

SIMILARITIES: dict[str, Similarity] = {f.__name__: f for f in (cos_sim, dot_score, euclidean_sim, manhattan_sim)}
FROM_EMBEDDINGS = {cos_sim: "cosine", dot_score: "dot"}
"""Those of which scores need not be stored."""


class _Loss(GradedColumns):
    """Scores of one embedding a text: `similarity_fct(queries [B, d], passages [N, d])`.

    Relations:
        With labels [1, 0, …, 0] `InfoNCELoss` is MultipleNegativesRankingLoss. The others tell grades apart. The
        Cached… form gives the same loss and reaches larger batches.
    """

    similarities = SIMILARITIES
    name_of = staticmethod(similarity_fct_name)
    default_scale = 20.0  # this framework's: a cosine over a temperature of 0.05

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        return self.compute_loss_from_embeddings(embed_columns(self.model, sentence_features), labels)

    def compute_loss_from_embeddings(
        self,
        embeddings: list[Tensor],  # [B, d] of each column: the queries, their first passages, their second, …
        labels: Tensor | None,  # [B, n passages]
    ) -> Tensor:
        grades, mask = self.graded(len(embeddings) - 1, labels)
        queries, passages = query_major(embeddings)
        if self.gathers():
            passages = all_gather_with_grad(passages)
        # In float32, under autocast too: a bfloat16 cosine of 0.9 is off by up to 0.002, 0.04 once scaled by 20.
        with torch.autocast(queries.device.type, enabled=False):
            if queries.dtype != torch.float64:
                queries, passages = queries.float(), passages.float()
            return self.of_scores(self.similarity_fct(queries, passages), grades, mask)


def query_major(columns: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Queries [B, d] and their passages [B·n, d].

    The framework has passages column by column, all queries' first ones, then all second ones: here a query's own stand
    together, as the losses want them."""
    return columns[0], torch.stack(columns[1:], 1).flatten(0, 1)


class WassersteinLoss(Wasserstein, _Loss): ...


class GaussianWassersteinLoss(GaussianWasserstein, _Loss): ...


class ListwiseKLLoss(ListwiseKL, _Loss): ...


class InfoNCELoss(InfoNCE, _Loss): ...


class CombinedLoss(Combined, _Loss): ...


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
        similarity_fct: Similarity | str | None = None,
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
        grades, mask = self.graded(len(embeddings) - 1, labels)
        queries, passages = query_major(embeddings)
        if grades.is_floating_point() and not self.of_the_batch:
            raise TypeError(
                f"{type(self).__name__} takes integer grades, the label column holds {grades.dtype}: cast it, "
                f"dataset.cast_column('label', Sequence(Value('int64'))), or take "
                f"{type(self).__name__.removeprefix('Cached')}"
            )
        gather = self.gathers() and self.gather_across_devices
        similarity = FROM_EMBEDDINGS[self.similarity_fct]
        loss = self.wassrank.from_embeddings(queries, passages, grades, mask=mask, similarity=similarity, gather=gather)
        return summed(loss) if gather else loss

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
