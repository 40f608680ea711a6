"""The passes as the C++ extension has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wassrank import backends
from wassrank.addresses import DTYPES, address
from wassrank.reference.rows import stray_grade

from .passes import Arguments, Moment, Row, Sum, Turned

_LABEL_KINDS = {  # csrc/common/gaussian.h
    torch.int8: 0, torch.int16: 1, torch.int32: 2, torch.int64: 3, torch.uint8: 4, torch.float32: 5, torch.float64: 6,
}  # fmt: skip


class Native:
    """`Passes` of one call of an operator, whose tensors are on the CPU or on CUDA's current device."""

    def __init__(self, a: Arguments, first: int) -> None:
        assert backends.native is not None
        self._C: Any = backends.native
        self.a = a
        Q, N = a.scores.shape
        self.batch = self._C.GaussianBatch(
            _stream(a.scores), a.scores.data_ptr(), a.labels.data_ptr(), address(a.target), address(a.mask),
            address(a.label_temperatures), Q, N, a.labels.shape[1], first,
            0 if a.target is None else a.target.shape[1], N if a.mask is not None and a.mask.dim() == 2 else 0,
            DTYPES[a.scores.dtype], _LABEL_KINDS[a.labels.dtype], a.target_kind, a.in_batch, a.num_levels or 0,
            a.temperature, a.label_temperature,
        )  # fmt: skip

    def rows(self) -> tuple[Tensor, Tensor]:
        Q, K = self.a.labels.shape
        row, excess = self._empty(Q, len(Row)), self._empty(Q if self.a.blocks else 0, K)
        stray = self._C.gaussian_rows(self.batch, row.data_ptr(), excess.data_ptr())
        if stray is not None:
            raise ValueError(stray_grade(stray if self.a.num_levels is None else int(stray), self.a.num_levels))
        return row, excess

    def moments(self, row: Tensor) -> Tensor:
        moments = self._empty(len(Moment), self.a.scores.shape[1])
        self._C.gaussian_moments(self.batch, row.data_ptr(), moments.data_ptr())
        return moments

    def products(self, row: Tensor, columns: Tensor, excess: Tensor, flag: Tensor | None) -> tuple[Tensor, Tensor]:
        Q, N = self.a.scores.shape
        sums = self._empty(Q, len(Sum))
        products = self._empty(Q, N // self.a.labels.shape[1] if excess.numel() else 0)
        self._C.gaussian_products(
            self.batch, row.data_ptr(), columns.data_ptr(), excess.data_ptr(), address(flag), sums.data_ptr(),
            products.data_ptr(),
        )  # fmt: skip
        return sums, products

    def tiles(self, row: Tensor, columns: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
        P, E_T = self._empty(2, len(row), end - begin)
        self._C.gaussian_tiles(self.batch, row.data_ptr(), columns.data_ptr(), begin, end, P.data_ptr(), E_T.data_ptr())
        return P, E_T

    def along(self, row: Tensor, columns: Tensor) -> Tensor:
        along = self._empty(len(row))
        self._C.gaussian_along(self.batch, row.data_ptr(), columns.data_ptr(), along.data_ptr())
        return along

    def gradient(
        self,
        row: Tensor,
        columns: Tensor,
        along: Tensor,
        scale: Tensor,
        out: Tensor,
        begin: int,
        end: int,
        turned: Turned | Tensor | None,
    ) -> None:
        tile = turned if isinstance(turned, Tensor) else None
        W, everywhere, excess, flag = turned if isinstance(turned, Turned) else (None, None, None, None)
        self._C.gaussian_gradient(
            self.batch, row.data_ptr(), columns.data_ptr(), along.data_ptr(), scale.data_ptr(), address(tile),
            address(W), address(everywhere), address(excess), address(flag), begin, end, out.data_ptr(),
        )  # fmt: skip

    def _empty(self, *shape: int) -> Tensor:
        return self.a.scores.new_empty(shape, dtype=torch.float64)


def _stream(scores: Tensor) -> int | None:
    """Where the passes are queued; on the CPU they are done at once."""
    return torch.cuda.current_stream(scores.device).cuda_stream if scores.is_cuda else None
