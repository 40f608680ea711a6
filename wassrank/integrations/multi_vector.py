"""Graded losses for sentence-transformers' late-interaction encoders (`MultiVectorEncoder`), on MaxSim scores.

    from wassrank.integrations.multi_vector import WassersteinLoss

    loss = WassersteinLoss(model, target="linear")  # where MultiVectorMultipleNegativesRankingLoss(model) was

A dataset's first column is the query, each other text column a passage, the label column a list of as many grades.
PyLate, which this comes from, has a module of its own; who has other MaxSim scores gives [B, n] or query-major
[B, B·n] to wassrank itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .graded_columns import GradedColumns, Similarity
from .losses import Combined, GaussianWasserstein, InfoNCE, ListwiseKL, Wasserstein
from .needs import needs

with needs("sentence-transformers", "st"):
    from sentence_transformers.base.losses.merged_forward import embed_columns_padded
    from sentence_transformers.multi_vector_encoder.scoring import (
        colbert_kd_scores,
        colbert_scores,
        mean_colbert_kd_scores,
        mean_colbert_scores,
    )
    from sentence_transformers.util import all_gather_padded, similarity_fct_name, stack_padded_token_embeddings

OWN = (colbert_kd_scores, mean_colbert_kd_scores)
"""Scores of a query's own passages alone."""

SIMILARITIES: dict[str, Similarity] = {f.__name__: f for f in (colbert_scores, mean_colbert_scores, *OWN)}


class _Loss(GradedColumns):
    """MaxSim scores, or others: `similarity_fct(queries [B, t, d], passages [B, n, t', d], queries_mask=…,
    documents_mask=…)` gives [B, B·n] query-major, or with colbert_kd_scores own passages alone, [B, n].

    Args:
        mini_batch_size: passages in a forward; None: all at once.
        score_mini_batch_size: queries scored at a time; None: all at once.
        The others: as GradedColumns'.
    """

    similarities = SIMILARITIES
    name_of = staticmethod(similarity_fct_name)
    default_scale = 1.0  # this framework's: MaxSim is a sum over a query's tokens, not a cosine

    def __init__(
        self,
        model: nn.Module,
        scale: float | None = None,
        similarity_fct: Similarity | str | None = None,
        gather_across_devices: bool = False,
        missing_label: int | None = None,
        mini_batch_size: int | None = None,
        score_mini_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, scale, similarity_fct, gather_across_devices, missing_label, **options)
        if gather_across_devices and self.similarity_fct in OWN:
            raise ValueError(
                f"{similarity_fct_name(self.similarity_fct)} scores a query's own passages alone, there is nothing to "
                f"gather: pass gather_across_devices=False, or colbert_scores"
            )
        for name, size in (("mini_batch_size", mini_batch_size), ("score_mini_batch_size", score_mini_batch_size)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, or None for all at once; got {size}")
        self.mini_batch_size = mini_batch_size
        self.score_mini_batch_size = score_mini_batch_size

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None) -> Tensor:
        queries, *passages = (dict(features) for features in sentence_features)
        grades, mask = self.graded(len(passages), labels)
        # The task says which of a text's tokens are scored: a query's expansion, a passage without punctuation.
        embedded = self.model(queries, task=queries.get("task", "query"))
        columns, masks = embed_columns_padded(self.model, passages, self.mini_batch_size, task_default="document")
        if self.gathers():
            shared = [all_gather_padded(*column, with_grad=True) for column in zip(columns, masks, strict=True)]
            columns, masks = [own for own, _ in shared], [real for _, real in shared]
        documents, documents_mask = stack_padded_token_embeddings(columns, masks)
        size = self.score_mini_batch_size or len(grades)
        scores = [
            self.similarity_fct(some, documents, queries_mask=real, documents_mask=documents_mask)
            for some, real in zip(
                embedded["token_embeddings"].split(size), embedded["attention_mask"].bool().split(size), strict=True
            )
        ]
        return self.of_scores(torch.cat(scores), grades, mask)

    def get_config_dict(self) -> dict[str, Any]:
        sizes = {"mini_batch_size": self.mini_batch_size, "score_mini_batch_size": self.score_mini_batch_size}
        return super().get_config_dict() | sizes


class WassersteinLoss(Wasserstein, _Loss): ...


class GaussianWassersteinLoss(GaussianWasserstein, _Loss): ...


class ListwiseKLLoss(ListwiseKL, _Loss): ...


class InfoNCELoss(InfoNCE, _Loss): ...


class CombinedLoss(Combined, _Loss): ...
