"""algebra.py on the CPU, in C++."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wassrank import backends

from .algebra import Number
from .passes import Column

_C: Any = backends.native


def columns(everyone: Tensor, moments: Tensor, diagonal: bool) -> tuple[Tensor, Tensor, Tensor]:
    N = moments.shape[1]
    found, numbers = everyone.new_empty(len(Column), N), everyone.new_empty(len(Number))
    flag = everyone.new_empty((), dtype=torch.bool)
    _C.gaussian_columns(
        everyone.data_ptr(), moments.data_ptr(), len(everyone), N, diagonal, found.data_ptr(), numbers.data_ptr(),
        flag.data_ptr(),
    )  # fmt: skip
    return found, numbers, flag


def centred(R: Tensor, row: Tensor, everyone: Tensor, numbers: Tensor) -> Tensor:
    products = torch.empty_like(R)
    _C.gaussian_centred(
        R.data_ptr(), row.data_ptr(), everyone.data_ptr(), numbers.data_ptr(), len(row), len(everyone),
        products.data_ptr(),
    )  # fmt: skip
    return products


def overlap(products: Tensor, total: Tensor, row: Tensor, numbers: Tensor) -> Tensor:
    A = torch.empty_like(products)
    _C.gaussian_overlap(
        products.data_ptr(), total.data_ptr(), row.data_ptr(), numbers.data_ptr(), *products.shape, A.data_ptr()
    )
    return A


def finish(
    norm: Tensor, W: Tensor, products: Tensor, sums: Tensor, everyone: Tensor, numbers: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, Q = products.shape
    W = W.contiguous()
    distance, scaled, along, everywhere = W.new_empty(()), torch.empty_like(W), W.new_empty(q), W.new_empty(q)
    _C.gaussian_finish(
        norm.data_ptr(), W.data_ptr(), products.data_ptr(), sums.data_ptr(), everyone.data_ptr(), numbers.data_ptr(),
        q, Q, eps, distance.data_ptr(), scaled.data_ptr(), along.data_ptr(), everywhere.data_ptr(),
    )  # fmt: skip
    return distance, scaled, along, everywhere
