"""One of two processes of a Trove retriever: what its trainer's step makes of a shared batch, gradients that
DistributedDataParallel averages. tests/integrations/test_trove.py, which starts it, compares with one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from trove import BiEncoderRetriever, ModelArguments

import wassrank.integrations.trove  # noqa: F401  # registers the losses

from .joined import main

Q, K, d = 6, 3, 4
CASES: dict[str, dict[str, Any]] = {"wassrank": {"target": "linear", "p": 2}, "wassrank_ws2": {}, "wassrank_nce": {}}


class Encoder(nn.Module):
    """What a PretrainedEncoder is to a retriever."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(d, d, dtype=torch.float64)

    def encode_query(self, inputs: Tensor) -> Tensor:
        embeddings: Tensor = self.linear(inputs)
        return embeddings

    encode_passage = encode_query

    @staticmethod
    def similarity_fn(query: Tensor, passage: Tensor) -> Tensor:
        return query @ passage.T


def step(alias: str, part: int | None = None) -> tuple[Tensor, list[Tensor]]:
    """The loss that the trainer reports and the model's gradients, of the whole batch or one half of it."""
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(Q, d, generator=generator, dtype=torch.float64)
    passages = torch.randn(Q, K, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (Q, K), generator=generator)
    own = slice(None) if part is None else slice(part * Q // 2, (part + 1) * Q // 2)
    arguments = ModelArguments(loss=alias, temperature=0.5)
    retriever: nn.Module = BiEncoderRetriever(arguments, Encoder(), loss_extra_kwargs=CASES[alias]).train()
    run = retriever if part is None else DistributedDataParallel(retriever)
    loss = run(query=queries[own], passage=passages[own].flatten(0, 1), label=labels[own]).loss
    (loss * (1 if part is None else dist.get_world_size())).backward()  # as RetrievalTrainer.compute_loss
    return loss.detach(), [p.grad for p in retriever.parameters() if p.grad is not None]


def work(rank: int, _: Path) -> dict[str, Any]:
    return {alias: step(alias, rank) for alias in CASES}


if __name__ == "__main__":
    main(work)
