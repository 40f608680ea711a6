"""One of two processes that share a batch: the gradients that DistributedDataParallel gives a model, and the loss, of
every case; tests/integrations/test_sentence_transformers.py, which starts it, compares them with one process's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wassrank.integrations import multi_vector as mv
from wassrank.integrations import sentence_transformers as st

from .joined import main

B, K, d, t = 6, 3, 4, 5
"""Queries, passages a query, the width of an embedding, tokens a text at most."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rows": ("WassersteinLoss", {"p": 2, "target": "softmax"}),
    "own passages": ("WassersteinLoss", {"in_batch": None, "target": "softmax"}),
    "missing": ("WassersteinLoss", {"missing_label": -1, "target": "softmax"}),
    "several positives": ("InfoNCELoss", {}),
    "distances": ("ListwiseKLLoss", {"similarity_fct": "euclidean_sim", "scale": 1}),
    "batch": ("GaussianWassersteinLoss", {"missing_label": -1}),
    "batch, own passages": ("GaussianWassersteinLoss", {"in_batch": None}),
    "cached rows": ("CachedWassersteinLoss", {"missing_label": -1, "mini_batch_size": 2}),
    "cached ring": ("CachedInfoNCELoss", {"mini_batch_size": 2}),
    "cached batch": ("CachedGaussianWassersteinLoss", {"mini_batch_size": 2}),
    "MaxSim rows": ("WassersteinLoss", {"missing_label": -1, "score_mini_batch_size": 2, "target": "softmax"}),
    "MaxSim batch": ("GaussianWassersteinLoss", {}),
}


class Embedder(nn.Module):
    """What a SentenceTransformer is to a loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(d, d, dtype=torch.float64)

    def __getitem__(self, i: int) -> nn.Module:
        return self.linear

    def forward(self, features: dict[str, Tensor], task: str | None = None) -> dict[str, Tensor]:
        if "attention_mask" not in features:
            return {"sentence_embedding": self.linear(features["x"])}
        return {"token_embeddings": self.linear(features["x"]), "attention_mask": features["attention_mask"]}


def batch(missing: bool, tokens: bool, rows: slice = slice(None)) -> tuple[list[dict[str, Tensor]], Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (1 + K, B, t, d) if tokens else (1 + K, B, d)
    columns = torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[3, 0, 1], [0, 0, 0], [2, 2, 0], [0, 1, 0], [1, 3, 2], [3, 3, 3]])
    if missing:
        labels[0, 1], labels[4, 0] = -1, -1
    if not tokens:
        return [{"x": column[rows]} for column in columns], labels[rows]
    real = torch.arange(t) < torch.randint(1, t + 1, (1 + K, B, 1), generator=generator)
    features = []
    for column, mask in zip(columns[:, rows], real[:, rows], strict=True):
        longest = int(mask.sum(-1).max())  # of this process: others' differ
        features.append({"x": column[:, :longest], "attention_mask": mask[:, :longest].long()})
    return features, labels[rows]


def step(name: str, rows: slice = slice(None), shared: bool = False) -> tuple[Tensor, list[Tensor]]:
    """The loss and the model's gradients."""
    kind, options = CASES[name]
    model: nn.Module = Embedder()
    gather: bool | str = "ring" if name == "cached ring" else True
    tokens = name.startswith("MaxSim")
    loss = getattr(mv if tokens else st, kind)(
        DistributedDataParallel(model) if shared else model, gather_across_devices=gather, **options
    )
    value = loss(*batch("missing_label" in options, tokens, rows))
    value.backward()
    return value.detach(), [p.grad for p in model.parameters() if p.grad is not None]


def work(rank: int, _: Path) -> dict[str, Any]:
    half = B // 2
    return {name: step(name, slice(rank * half, (rank + 1) * half), shared=True) for name in CASES}


if __name__ == "__main__":
    main(work)
