"""What evaluation adds to the work that cannot be avoided: `python -m benchmarks.training encoding search`.

Encoding: `embeddings`, as the evaluator calls it, against a bare loop over batches sorted by length, with the bundled
MiniLM on the sample's passages. Search: `top_k` against a blocked torch.matmul and topk over all passages at once, on
random embeddings (10,000 × 1,000,000 × 384 unless told: 1.5 GB, and 1 GB of scores). Both go through the work in slices
by turns, so that other load on the machine falls on both; reported are wall-clock and processor time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data import read_collection
from training.embedding_cache import embeddings
from training.encoder import BiEncoder, default_encoder
from training.search import top_k

SAMPLE = Path(__file__).parent.parent / "training" / "sample"
DIMENSION = 384  # MiniLM's
SLICE = 1024  # queries: half a minute
BARE_BLOCK = 256  # queries of the blocked product
BATCH = 32
ROUNDS = 8


class Clock:
    """Adds up wall-clock and processor seconds."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def time(self, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        return result


def compared(name: str, ours: Clock, bare: Clock, **sizes: int) -> dict[str, Any]:
    return {
        "name": name,
        **sizes,
        "seconds": round(ours.wall, 2),
        "bare_seconds": round(bare.wall, 2),
        "ratio": round(ours.wall / bare.wall, 3),
        "cpu_ratio": round(ours.cpu / bare.cpu, 3),
    }


def bare_search(queries: Tensor, corpus: Tensor, k: int) -> Tensor:
    return torch.cat([(block @ corpus.T).topk(k).values for block in queries.split(BARE_BLOCK)])


def search(queries: int, passages: int, k: int) -> dict[str, Any]:
    torch.manual_seed(0)
    corpus = torch.nn.functional.normalize(torch.randn(passages, DIMENSION), dim=1)
    asked = torch.nn.functional.normalize(torch.randn(queries, DIMENSION), dim=1)
    ours, bare = Clock(), Clock()
    for start in range(0, queries, SLICE):
        some = asked[start : start + SLICE]
        expected = bare.time(partial(bare_search, some, corpus, k))
        scores, _ = ours.time(partial(top_k, some, corpus, k))
        torch.testing.assert_close(scores, expected)
    return compared("search", ours, bare, queries=queries, passages=passages, dimension=DIMENSION, k=k)


@torch.inference_mode()
def bare_loop(encoder: BiEncoder, texts: list[str]) -> list[Tensor]:
    by_length = sorted(texts, key=len)
    return [
        encoder.embed(
            dict(
                encoder.tokenizer(
                    by_length[start : start + BATCH],
                    padding=True,
                    truncation=True,
                    max_length=encoder.max_length,
                    return_tensors="pt",
                )
            )
        )
        for start in range(0, len(texts), BATCH)
    ]


def encoding(count: int) -> dict[str, Any]:
    encoder = BiEncoder.from_pretrained(default_encoder()).eval()
    texts = list(read_collection(SAMPLE, ["test"]).corpus.values())[:count]
    ours, bare = Clock(), Clock()
    bare_loop(encoder, texts[:BATCH])
    turns = [
        partial(ours.time, partial(embeddings, encoder, texts, BATCH)),
        partial(bare.time, partial(bare_loop, encoder, texts)),
    ]
    for _ in range(ROUNDS):
        for turn in turns:
            turn()
        turns.reverse()  # neither is always the first
    return compared("encoding", ours, bare, texts=len(texts), rounds=ROUNDS)
