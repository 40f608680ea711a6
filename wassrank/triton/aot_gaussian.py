"""The batch-Gaussian loss's launches for wassrank.triton.aot: every form of its kernels that differs in its code."""

from __future__ import annotations

import functools
from typing import Any

import torch

from wassrank.codes import Target
from wassrank.gaussian.passes import Arguments, Column, Turned

from .gaussian_wasserstein import GaussianPasses
from .launch import Launch

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "gaussian, 64 x 4 in batch": {"Q": 64, "K": 4},
    "gaussian, 33 x 3 in batch, int8 labels": {"Q": 33, "K": 3, "label_dtype": torch.int8},
    "gaussian, 512 x 8 in batch": {"K": 8},
    "gaussian, 512 x 8 in batch, bf16, mask, exp2": {
        "K": 8, "dtype": torch.bfloat16, "mask": "passage", "target": "exp2"
    },
    "gaussian, 512 x 8 in batch, fp64, floats, label temperatures": {
        "K": 8, "dtype": torch.float64, "label_dtype": torch.float32, "label_temperatures": True
    },
    "gaussian, 512 x 8 in batch, given": {"K": 8, "target": "given own"},
    "gaussian, 512 x 8 in batch, a mask a row": {"K": 8, "mask": "row", "target": "linear"},
    "gaussian, 512 x 8 in batch, given to all": {"K": 8, "target": "given"},
    "gaussian, 512 x 8 in batch, diagonal": {"K": 8, "diagonal": True},
    "gaussian, 512 x 8 excluded": {"K": 8, "in_batch": None},
    "gaussian, 512 x 8 excluded, a mask a row": {"K": 8, "in_batch": None, "mask": "row"},
    "gaussian, 512 x 8 excluded, diagonal": {"K": 8, "in_batch": None, "diagonal": True},
    "gaussian, 8 x 4000 in batch": {"Q": 8, "K": 4000},
    "gaussian, 4096 passages": {"N": 4096},
    "gaussian, 4096 passages, bf16, floats, mask": {
        "N": 4096, "dtype": torch.bfloat16, "label_dtype": torch.float32, "mask": "row"
    },
    "gaussian, 4096 passages, fp64, given, diagonal": {
        "N": 4096, "dtype": torch.float64, "target": "given", "diagonal": True
    },
}  # fmt: skip


def example(
    *,
    Q: int = 512,
    K: int | None = None,  # None: labels of the whole row
    N: int | None = None,
    dtype: torch.dtype = torch.float32,
    label_dtype: torch.dtype = torch.int64,
    target: str = "softmax",  # "given": [Q, N]; "given own": as labels
    mask: str | None = None,  # "passage": [N]; "row": [Q, N]
    in_batch: float | None = 0.0,
    label_temperatures: bool = False,
    diagonal: bool = False,
) -> list[Launch]:
    """The launches of one step, on meta tensors."""
    empty = functools.partial(torch.empty, device="meta", dtype=torch.float64)
    N = Q * (K or 0) if N is None else N
    labels = empty((Q, K or N), dtype=label_dtype)
    masks = {None: None, "passage": empty(N, dtype=torch.bool), "row": empty((Q, N), dtype=torch.bool)}
    given = {"given": empty((Q, N)), "given own": empty(labels.shape)}
    a = Arguments(
        scores=empty((Q, N), dtype=dtype),
        labels=labels,
        target=given.get(target),
        mask=masks[mask],
        label_temperatures=empty(Q) if label_temperatures else None,
        target_kind=int(Target[target.split()[0]]),
        in_batch=in_batch,
        num_levels=None if label_dtype.is_floating_point else 8,
        diagonal=diagonal,
    )
    passes = GaussianPasses(a, 0)
    columns, along, scale, out = empty((len(Column), N)), empty(Q), empty(()), torch.empty_like(a.scores)
    (row, excess), rows = passes.plan_rows()
    launches = [rows, passes.plan_moments(row)[1]]
    turned: Any = None
    if a.diagonal:
        launches.append(passes.plan_along(row, columns)[1])
    else:
        flag = empty((), dtype=torch.bool)
        excess = excess.view(-1)
        launches.append(passes.plan_products(row, columns, excess, flag)[1])
        if a.blocks:
            turned = Turned(empty((Q, Q)), empty(Q), excess, flag)
        else:
            turned = empty((Q, N))
            launches.append(passes.plan_tiles(row, columns, 0, N)[1])
    return [*launches, passes.plan_gradient(row, columns, along, scale, out, 0, N, turned)]
