"""A PyLate encoder on a batch, alone or as one of two processes that share it: the loss, and the gradients that
DistributedDataParallel gives. test_pylate.py compares the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pylate.models import ColBERT
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.encoder import default_encoder
from wassrank.integrations import pylate as pl

from .joined import main

QUERIES = ["how do bees see", "when do trains run", "who sleeps", "what is honey"]
PASSAGES = [
    ["bees see ultraviolet light", "bees make honey", "trains run late"],
    ["trains run at night", "the trains are late", "cats sleep"],
    ["cats sleep all day long", "bees sleep", "a train"],
    ["honey is what bees make", "it is sweet", "cats"],
]
GRADES = [[3, 1, 0], [2, 2, 0], [3, 1, -1], [0, 1, 0]]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rows": ("WassersteinLoss", {"gather_across_devices": True, "score_mini_batch_size": 1}),
    "batch": ("GaussianWassersteinLoss", {"gather_across_devices": True, "target": "exp2"}),
    "own passages": ("WassersteinLoss", {"score_metric": "colbert_kd_scores"}),
}


def encoder() -> Any:
    """MiniLM's first layer in float64, without dropout."""
    torch.manual_seed(0)
    model = ColBERT(
        model_name_or_path=str(default_encoder()),
        device="cpu",
        config_kwargs={"num_hidden_layers": 1},
        query_length=12,
        document_length=12,
    )
    model[0].auto_model.embeddings.requires_grad_(False)
    return model.double().eval()


def columns(model: Any, rows: slice = slice(None), listed: bool = False) -> tuple[list[dict[str, Tensor]], Tensor]:
    """As PyLate's collator makes them: of passage columns, or of a column of lists."""
    own = PASSAGES[rows]
    texts = [[text for row in own for text in row]] if listed else list(map(list, zip(*own, strict=True)))
    features = [model.tokenize(QUERIES[rows], is_query=True, pad=True)]
    features += [model.tokenize(column, is_query=False, pad=True) for column in texts]
    return features, torch.tensor(GRADES[rows])


def step(name: str, rows: slice = slice(None), shared: bool = False) -> tuple[Tensor, list[Tensor]]:
    kind, options = CASES[name]
    model: nn.Module = encoder()
    # As trainers wrap it: BERT's pooler, for one, is not used.
    called = DistributedDataParallel(model, find_unused_parameters=True) if shared else model
    loss = getattr(pl, kind)(called, missing_label=-1, **options)
    value = loss(*columns(model, rows))
    value.backward()
    return value.detach(), [p.grad for p in model.parameters() if p.grad is not None]


def work(rank: int, _: Path) -> dict[str, Any]:
    half = len(QUERIES) // 2
    return {name: step(name, slice(rank * half, (rank + 1) * half), shared=True) for name in CASES}


if __name__ == "__main__":
    main(work)
