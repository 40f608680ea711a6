"""The launches of the losses from embeddings for wassrank.triton.aot: every form of their kernels that differs in its
code, at the widths of small encoders (384) and large ones (1024)."""

from __future__ import annotations

import functools
from typing import Any

import torch

from wassrank.codes import EXCLUDED, Target
from wassrank.embeddings.arguments import Arguments
from wassrank.embeddings.tiles import Tile
from wassrank.processes.passages import Block
from wassrank.reference import Terms
from wassrank.reference.rows import compute_dtype

from .from_embeddings import EmbeddingsLaunches
from .launch import Launch

WASSERSTEIN, KL, INFO_NCE = Terms(wasserstein=1.0), Terms(kl=1.0), Terms(info_nce=1.0)
ALL = Terms(wasserstein=1.0, info_nce=0.5, kl=0.5)
HALF, BF16, DOUBLE = torch.float16, torch.bfloat16, torch.float64

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "embeddings, 512 x 8 in batch": {},
    "embeddings, 512 x 8 in batch, fp16": {"dtype": HALF},
    "embeddings, 512 x 8 in batch, d = 1024, bf16, all losses": {"d": 1024, "dtype": BF16, "terms": ALL},
    "embeddings, 512 x 8 in batch, fp64, all losses": {"dtype": DOUBLE, "terms": ALL},
    "embeddings, 512 x 8 in batch, bf16, InfoNCE, positives": {"dtype": BF16, "terms": INFO_NCE, "positive": True},
    "embeddings, 512 x 8 in batch, bf16, KL, given to all": {"dtype": BF16, "terms": KL, "target": "given"},
    "embeddings, 512 x 8 in batch, bf16, cosine, pairs, mask": {
        "dtype": BF16, "cosine": True, "exclude": "pairs", "mask": "passage"
    },
    "embeddings, 512 x 8 in batch, bf16, flags a row": {"dtype": BF16, "exclude": "row", "mask": "row"},
    "embeddings, 512 x 8 in batch, bf16, p=1.5, all losses, 32 levels": {
        "dtype": BF16, "terms": ALL, "p": 1.5, "num_levels": 32
    },
    "embeddings, 512 x 8 excluded": {"in_batch": EXCLUDED},
    "embeddings, 4096 passages, bf16, all losses": {"N": 4096, "dtype": BF16, "terms": ALL},
    "embeddings, 4096 passages, all losses, given, 32 levels": {
        "N": 4096, "terms": ALL, "target": "given", "num_levels": 32
    },
}  # fmt: skip


def example(
    *,
    Q: int = 512,
    K: int = 8,
    N: int | None = None,  # labels of the whole row
    d: int = 384,
    dtype: torch.dtype = torch.float32,
    num_levels: int = 8,
    p: float = 1.0,
    target: str = "softmax",  # "given": [Q, N]; "given own": as labels
    in_batch: int = 0,
    terms: Terms = WASSERSTEIN,
    mask: str | None = None,  # "passage": [N]; "row": [Q, N]
    exclude: str | None = None,  # "pairs", "row": [Q, N]
    cosine: bool = False,
    learned: bool = True,
    positive: bool = False,
) -> list[Launch]:
    """The launches of one step, on meta tensors."""
    empty = functools.partial(torch.empty, device="meta")
    C = compute_dtype(dtype)
    labels = empty((Q, N or K), dtype=torch.int64)
    N = N or Q * K
    whole = empty((Q, N), dtype=torch.bool)
    given = {"given": empty((Q, N), dtype=C), "given own": empty(labels.shape, dtype=C)}
    a = Arguments(
        queries=empty((Q, d), dtype=dtype),
        passages=empty((N, d), dtype=dtype),
        learned=empty((), dtype=C) if learned else None,
        labels=labels,
        target=given.get(target),
        mask={None: None, "passage": whole[0], "row": whole}[mask],
        positives=empty(Q, dtype=torch.int64) if positive else None,
        exclude={None: None, "pairs": empty((100, 2), dtype=torch.int64), "row": whole}[exclude],
        cosine=cosine,
        wasserstein=terms.wasserstein,
        info_nce=terms.info_nce,
        kl=terms.kl,
        target_kind=int(Target[target.split()[0]]),
        in_batch=in_batch,
        num_levels=num_levels,
        p=p,
    )
    calls = EmbeddingsLaunches(a, N, 0)
    block = Block(0, a.passages)
    sums = calls.nothing_yet()
    (_, _, state), finish = calls.plan_finish(sums)
    tile = Tile(0, 0, block, 0, a.queries, a.passages)
    gradient = calls.plan_gradient(empty((Q, N), dtype=C), tile, state, empty(Q, dtype=C))
    return [*calls.plan_statistics(block, sums), finish, gradient]
