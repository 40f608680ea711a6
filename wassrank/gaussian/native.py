"""The passes as the C++ extension has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wassrank import backends
from wassrank.reference.rows import stray_grade

from .passes import Arguments, Moment, Row, Sum, Turned

_DTYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}  # csrc/common/rows.h
_LABEL_KINDS = {  # csrc/common/gaussian.h
    torch.int8: 0, torch.int16: 1, torch.int32: 2, torch.int64: 3, torch.uint8: 4, torch.float32: 5, torch.float64: 6,
}  # fmt: skip


class Native:
    """`Passes` of one call of an operator, whose tensors are on the CPU or on CUDA's current device."""

    def __init__(self, a: Arguments, first: int) -> None:
        assert backends.native is not None
        self._C: Any = backends.native
        Q, N = a.scores.shape
        self.batch = self._C.GaussianBatch(
            _stream(a), a.scores.data_ptr(), a.labels.data_ptr(), _address(a.target), _address(a.mask),
            _address(a.label_temperatures), Q, N, a.labels.shape[1], first,
            0 if a.target is None else a.target.shape[1], N if a.mask is not None and a.mask.dim() == 2 else 0,
            _DTYPES[a.scores.dtype], _LABEL_KINDS[a.labels.dtype], a.target_kind, a.in_batch, a.num_levels or 0,
            a.temperature, a.label_temperature,
        )  # fmt: skip

    def rows(self, a: Arguments, first: int) -> tuple[Tensor, Tensor]:
        Q, K = a.labels.shape
        row, excess = _empty(a, Q, len(Row)), _empty(a, Q if a.blocks else 0, K)
        stray = self._C.gaussian_rows(self.batch, row.data_ptr(), excess.data_ptr())
        if stray is not None:
            raise ValueError(stray_grade(stray if a.num_levels is None else int(stray), a.num_levels))
        return row, excess

    def moments(self, a: Arguments, first: int, row: Tensor) -> Tensor:
        moments = _empty(a, len(Moment), a.scores.shape[1])
        self._C.gaussian_moments(self.batch, row.data_ptr(), moments.data_ptr())
        return moments

    def products(
        self, a: Arguments, first: int, row: Tensor, columns: Tensor, excess: Tensor, flag: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        Q, N = a.scores.shape
        sums = _empty(a, Q, len(Sum))
        products = _empty(a, Q, N // a.labels.shape[1] if excess.numel() else 0)
        self._C.gaussian_products(
            self.batch, row.data_ptr(), columns.data_ptr(), excess.data_ptr(), _address(flag), sums.data_ptr(),
            products.data_ptr(),
        )  # fmt: skip
        return sums, products

    def tiles(
        self, a: Arguments, first: int, row: Tensor, columns: Tensor, begin: int, end: int
    ) -> tuple[Tensor, Tensor]:
        P, E_T = _empty(a, 2, len(row), end - begin)
        self._C.gaussian_tiles(self.batch, row.data_ptr(), columns.data_ptr(), begin, end, P.data_ptr(), E_T.data_ptr())
        return P, E_T

    def along(self, a: Arguments, first: int, row: Tensor, columns: Tensor) -> Tensor:
        along = _empty(a, len(row))
        self._C.gaussian_along(self.batch, row.data_ptr(), columns.data_ptr(), along.data_ptr())
        return along

    def gradient(
        self,
        a: Arguments,
        first: int,
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
            self.batch, row.data_ptr(), columns.data_ptr(), along.data_ptr(), scale.data_ptr(), _address(tile),
            _address(W), _address(everywhere), _address(excess), _address(flag), begin, end, out.data_ptr(),
        )  # fmt: skip


def _stream(a: Arguments) -> int | None:
    """Where the passes are queued; they are done at once on the CPU."""
    return torch.cuda.current_stream(a.scores.device).cuda_stream if a.scores.is_cuda else None


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _empty(a: Arguments, *shape: int) -> Tensor:
    return a.scores.new_empty(shape, dtype=torch.float64)
