"""Graded losses for PyLate's late-interaction encoders (`pylate.models.ColBERT`), on its scores.

    from wassrank.integrations.pylate import WassersteinLoss

    loss = WassersteinLoss(model, target="linear")  # where losses.Contrastive(model) or losses.Distillation(model) was

A dataset is one of PyLate's: a query column, passage columns and a column "label"; or, as KDProcessing makes it,
"query", "documents" and "scores". Either way the last holds a list of as many grades, or a teacher's scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .graded_columns import GradedColumns, Similarity
from .in_batch import gathered
from .losses import Combined, GaussianWasserstein, InfoNCE, ListwiseKL, Wasserstein
from .needs import needs

with needs("PyLate", "pylate"):
    from pylate.losses.contrastive import extract_skiplist_mask
    from pylate.scores import ColBERTScores, colbert_kd_scores
    from pylate.utils import all_gather_with_gradients

METRICS: dict[str, Similarity] = {"ColBERTScores": ColBERTScores(), "colbert_kd_scores": colbert_kd_scores}


class _Loss(GradedColumns):
    """MaxSim scores, or others: `score_metric(queries [B, t, d], passages [B, n, t', d], queries_mask=…,
    documents_mask=…)` gives [B, B·n] query-major, or with colbert_kd_scores own passages alone, [B, n].

    Args:
        score_metric: a function as PyLate's losses take one, or "ColBERTScores" (unless given) or "colbert_kd_scores".
        score_mini_batch_size: queries scored at a time; None: all at once.
        options: also `temperature`, what scores are divided by: 1 unless given, as in PyLate.
        The others: as GradedColumns'.
    """

    similarities = METRICS
    similarity_argument = "score_metric"
    default_scale = 1.0

    def __init__(
        self,
        model: nn.Module,
        score_metric: Similarity | str | None = None,
        score_mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
        missing_label: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, None, score_metric, gather_across_devices, missing_label, **options)
        if gather_across_devices and self.similarity_fct is colbert_kd_scores:
            raise ValueError(
                "colbert_kd_scores scores a query's own passages alone, there is nothing to gather: pass "
                "gather_across_devices=False, or score_metric='ColBERTScores'"
            )
        if score_mini_batch_size is not None and score_mini_batch_size < 1:
            raise ValueError(f"score_mini_batch_size must be at least 1, or None; got {score_mini_batch_size}")
        self.score_mini_batch_size = score_mini_batch_size

    @staticmethod
    def name_of(similarity: Similarity) -> str:
        return getattr(similarity, "__name__", type(similarity).__name__)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        features = list(sentence_features)
        B, *rows = (len(column["input_ids"]) for column in features)
        listed = len(rows) == 1 and rows[0] != B  # a column of lists comes flat, one query's after another's
        if listed and rows[0] % B:
            raise ValueError(
                f"{type(self).__name__}: the batch has {rows[0]} documents for {B} queries: every query needs as many, "
                f"give the shorter lists empty texts and the label missing_label=…"
            )
        grades, mask = self.graded(rows[0] // B if listed else len(rows), labels)
        queries, *columns = (normalize(self.model(column)["token_embeddings"], dim=-1) for column in features)
        model = getattr(self.model, "module", self.model)  # DistributedDataParallel's
        queries_mask, *masks = extract_skiplist_mask(sentence_features=features, skiplist=model.skiplist)
        if model.do_query_expansion:  # whose tokens are scored, though not attended to
            queries_mask = torch.ones_like(queries_mask)
        passages, passages_mask = (
            own[0].unflatten(0, (B, -1)) if listed else torch.stack(own, 1) for own in (columns, masks)
        )
        if self.gathers():
            passages, passages_mask = torch.cat(all_gather_with_gradients(passages)), gathered(passages_mask)
        size = self.score_mini_batch_size or B
        scores = [
            self.similarity_fct(some, passages, queries_mask=real, documents_mask=passages_mask)
            for some, real in zip(queries.split(size), queries_mask.split(size), strict=True)
        ]
        return self.of_scores(torch.cat(scores), grades, mask)

    def get_config_dict(self) -> dict[str, Any]:
        """What made this loss, in plain values: WassersteinLoss(model, **config) makes it again."""
        config = super().get_config_dict()
        config["score_metric"], config["temperature"] = config.pop("similarity_fct"), 1 / config.pop("scale")
        return config | {"score_mini_batch_size": self.score_mini_batch_size}


class WassersteinLoss(Wasserstein, _Loss): ...


class GaussianWassersteinLoss(GaussianWasserstein, _Loss): ...


class ListwiseKLLoss(ListwiseKL, _Loss): ...


class InfoNCELoss(InfoNCE, _Loss): ...


class CombinedLoss(Combined, _Loss): ...
