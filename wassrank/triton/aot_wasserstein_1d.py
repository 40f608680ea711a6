"""The 1-D distance's launches for wassrank.triton.aot: every form of its kernels that differs in its code."""

from __future__ import annotations

import functools
from typing import Any

import torch

from wassrank.arguments import PairArguments
from wassrank.reference.rows import compute_dtype

from .launch import Launch
from .wasserstein_1d import plan_forward

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "pairs, 1024 x 8": {"n": 8},
    "pairs, 1024 x 64": {"n": 64},
    "pairs, 1024 x 1024, loss alone, p=2": {"n": 1024, "p": 2.0, "wanted": 0},
    "pairs, 64 x 16384, bf16, p=1.5": {"pairs": 64, "n": 16384, "dtype": torch.bfloat16, "p": 1.5},
    "pairs, 64 x 16384, fp64, p=2": {"pairs": 64, "n": 16384, "dtype": torch.float64, "p": 2.0},
    "weighted pairs, 1024 x 8": {"n": 8, "weights": True},
    "weighted pairs, 1024 x 64, masks, p=2": {"n": 64, "weights": True, "masks": True, "p": 2.0},
    "weighted pairs, 1024 x 64, support shared": {"n": 64, "weights": True, "shared": True, "wanted": 0b1100},
    "weighted pairs, 1024 x 1024": {"n": 1024, "weights": True},
    "weighted pairs, 1024 x 1024, bf16, masks, p=1.5": {
        "n": 1024, "dtype": torch.bfloat16, "weights": True, "masks": True, "p": 1.5
    },
    "weighted pairs, 1024 x 1024, fp64, p=1.5": {"n": 1024, "dtype": torch.float64, "weights": True, "p": 1.5},
    "weighted pairs, 64 x 16384": {"pairs": 64, "n": 16384, "weights": True},
    "weighted pairs, 64 x 16384, loss alone": {"pairs": 64, "n": 16384, "weights": True, "wanted": 0},
    "weighted pairs, 64 x 16384, bf16, masks, p=1.5": {
        "pairs": 64, "n": 16384, "dtype": torch.bfloat16, "weights": True, "masks": True, "p": 1.5
    },
    "weighted pairs, 64 x 16384, fp64, p=1.5": {
        "pairs": 64, "n": 16384, "dtype": torch.float64, "weights": True, "p": 1.5
    },
    "pairs, 1024 x 1000 and 300, masks": {"n": 1000, "m": 300, "masks": True},
    "packed weighted pairs of 30, p=2": {"n": 30, "weights": True, "packed": True, "p": 2.0},
    "packed pairs of 1000": {"n": 1000, "packed": True},
}  # fmt: skip


def example(
    *,
    pairs: int = 1024,
    n: int,
    m: int | None = None,  # None: as many
    dtype: torch.dtype = torch.float32,
    p: float = 1.0,
    weights: bool = False,
    masks: bool = False,
    shared: bool = False,  # all pairs have the same values
    packed: bool = False,
    wanted: int | None = None,  # None: all there are
) -> list[Launch]:
    """The launches of one step, on meta tensors."""
    empty = functools.partial(torch.empty, device="meta")
    C = compute_dtype(dtype)
    shapes = [(pairs * n,), (pairs * (m or n),)] if packed else [(pairs, n), (pairs, m or n)]
    u, v = (
        {
            "values": empty((1, *shape[1:]) if shared else shape, dtype=dtype),
            "weights": empty(shape, dtype=C) if weights else None,
            "mask": empty(shape, dtype=torch.bool) if masks else None,
            "offsets": empty(pairs + 1, dtype=torch.int64) if packed else None,
        }
        for shape in shapes
    )
    given: dict[str, Any] = {f"{side}_{name}": t for side, of in (("u", u), ("v", v)) for name, t in of.items()}
    everything = 0b1111 if weights else 0b11
    a = PairArguments(pairs=pairs, wanted=everything if wanted is None else wanted, p=p, **given)
    return plan_forward(a)[1]
