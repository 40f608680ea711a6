"""The batch-Gaussian loss in Triton: its passes' host functions; wassrank/gaussian/passes.py says what each is to do.
The kernels: gaussian_kernels.py and gaussian_parts.py.

One launch a pass, no atomics and nothing decided on the host: a result has the same bits each run, and a step can be
captured in a CUDA graph. Nothing is allocated but what a pass returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wassrank.gaussian.passes import Arguments, Moment, Row, Sum, Turned

from .gaussian_kernels import (
    gaussian_along_kernel,
    gaussian_gradient_kernel,
    gaussian_moments_kernel,
    gaussian_products_kernel,
    gaussian_rows_kernel,
    gaussian_tiles_kernel,
)
from .launch import WARP, Launch, ceil_div, power_of_two, run
from .row_kernels import exponent_scale, mask_stride, sizes


@dataclass(frozen=True)
class GaussianTile:
    """How many scores a program reads at a time. A float64 number is two registers and a score has a handful of them:
    with four a lane some forms take 100 registers, with two 64 will do for all but the moments, which have 80."""

    a_lane: int = 2
    max_warps: int = 8
    moment_rows: int = 32
    moment_columns: int = 16
    """Few, so that there are as many programs as an SM can use: 64 bytes of float32, two of the memory's sectors."""

    def a_row(self, N: int) -> tuple[int, int]:
        """Columns of a row a program, and warps."""
        warps = min(self.max_warps, max(1, power_of_two(N) // (self.a_lane * WARP)))
        return min(power_of_two(N), self.a_lane * WARP * warps), warps


TILE = GaussianTile()
ELEMENTWISE_WARPS = 4
MAX_REGISTERS, MOMENTS_MAX_REGISTERS = 64, 80


class GaussianPasses:
    """`Passes` of one call. `tile` is for tests, to have many tiles in a small problem."""

    def __init__(self, a: Arguments, first: int, tile: GaussianTile = TILE) -> None:
        self.a, self.first, self.tile = a, first, tile

    def rows(self) -> tuple[Tensor, Tensor]:
        outputs, launch = self.plan_rows()
        run([launch], self.a.scores.device)
        return outputs

    def moments(self, row: Tensor) -> Tensor:
        moments, launch = self.plan_moments(row)
        run([launch], self.a.scores.device)
        return moments

    def products(self, row: Tensor, columns: Tensor, excess: Tensor, flag: Tensor | None) -> tuple[Tensor, Tensor]:
        outputs, launch = self.plan_products(row, columns, excess, flag)
        run([launch], self.a.scores.device)
        return outputs

    def tiles(self, row: Tensor, columns: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
        outputs, launch = self.plan_tiles(row, columns, begin, end)
        run([launch], self.a.scores.device)
        return outputs

    def along(self, row: Tensor, columns: Tensor) -> Tensor:
        along, launch = self.plan_along(row, columns)
        run([launch], self.a.scores.device)
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
        run([self.plan_gradient(row, columns, along, scale, out, begin, end, turned)], self.a.scores.device)

    # Each plan: the outputs, not yet computed, and the launch that computes them. On meta tensors too.

    def plan_rows(self) -> tuple[tuple[Tensor, Tensor], Launch]:
        Q, N, K = sizes(self.a.scores, self.a.labels, None)
        state = self.a.scores.new_empty((Q, len(Row)), dtype=torch.float64)
        excess = state.new_empty((Q if self.a.blocks else 0, K))
        block, warps = self.tile.a_row(N)
        own_block = min(block, power_of_two(K))
        given = {"state": state, "excess": excess if self.a.blocks else None, "BLOCK": block, "OWN_BLOCK": own_block}
        return (state, excess), self._launch(gaussian_rows_kernel, (Q,), warps, given)

    def plan_moments(self, row: Tensor) -> tuple[Tensor, Launch]:
        Q, N = self.a.scores.shape
        moments = row.new_empty((len(Moment), N))
        rows, block = min(power_of_two(Q), self.tile.moment_rows), min(power_of_two(N), self.tile.moment_columns)
        given = {"state": row, "moments": moments, "ROWS": rows, "BLOCK": block}
        warps = max(1, rows * block // (self.tile.a_lane * WARP))
        launch = self._launch(gaussian_moments_kernel, (ceil_div(N, block),), warps, given)
        return moments, replace(launch, max_registers=MOMENTS_MAX_REGISTERS)

    def plan_products(
        self, row: Tensor, columns: Tensor, excess: Tensor, flag: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], Launch]:
        Q, N, K = sizes(self.a.scores, self.a.labels, None)
        a_program, warps = self.tile.a_row(N)
        asked = excess.numel() > 0
        width = K if asked else a_program
        segments = ceil_div(N, width)
        sums, products = row.new_empty((Q, len(Sum))), row.new_empty((Q, segments if asked else 0))
        block = min(power_of_two(width), a_program)
        given = {
            "state": row,
            "columns": columns,
            "excess": excess if asked else None,
            "flag": flag if asked else None,
            "sums": sums,
            "products": products if asked else None,
            "segments": segments,
            "width": width,
            "SEGMENTS": a_program // block,
            "BLOCK": block,
        }
        return (sums, products), self._launch(gaussian_products_kernel, (Q,), warps, given)

    def plan_tiles(self, row: Tensor, columns: Tensor, begin: int, end: int) -> tuple[tuple[Tensor, Tensor], Launch]:
        P, E_T = row.new_empty((2, len(row), end - begin)).unbind()
        given = {"state": row, "columns": columns, "tile_P": P, "tile_E_T": E_T}
        return (P, E_T), self._elementwise(gaussian_tiles_kernel, begin, end, given)

    def plan_along(self, row: Tensor, columns: Tensor) -> tuple[Tensor, Launch]:
        along = row.new_empty(len(row))
        block, warps = self.tile.a_row(self.a.scores.shape[1])
        given = {"state": row, "columns": columns, "along": along, "BLOCK": block}
        return along, self._launch(gaussian_along_kernel, (len(row),), warps, given)

    def plan_gradient(
        self,
        row: Tensor,
        columns: Tensor,
        along: Tensor,
        scale: Tensor,
        out: Tensor,
        begin: int,
        end: int,
        turned: Turned | Tensor | None,
    ) -> Launch:
        parts = turned if isinstance(turned, Turned) else None
        given = {
            "state": row,
            "columns": columns,
            "along": along,
            "scale": scale,
            "turned": turned if parts is None else None,
            "W": None if parts is None else parts.W,
            "everywhere": None if parts is None else parts.everywhere,
            "excess": None if parts is None else parts.excess,
            "flag": None if parts is None else parts.flag,
            "queries": 0 if parts is None else parts.W.shape[1],
            "gradient": out,
        }
        return self._elementwise(gaussian_gradient_kernel, begin, end, given)

    def _elementwise(self, kernel: Any, begin: int, end: int, given: Mapping[str, Any]) -> Launch:
        """Over columns begin … end of all rows."""
        a_program = self.tile.a_lane * WARP * ELEMENTWISE_WARPS
        block = min(power_of_two(end - begin), a_program)
        rows = a_program // block
        grid = ceil_div(len(self.a.scores), rows), ceil_div(end - begin, block)
        tile = {"column_begin": begin, "column_end": end, "ROWS": rows, "BLOCK": block}
        return self._launch(kernel, grid, ELEMENTWISE_WARPS, {**given, **tile})

    def _launch(self, kernel: Any, grid: tuple[int, ...], num_warps: int, given: Mapping[str, Any]) -> Launch:
        """With `given`, and of the loss's arguments what the kernel asks for."""
        a = self.a
        Q, N, K = sizes(a.scores, a.labels, None)
        own = K != N
        shared = {
            "scores": a.scores,
            "labels": a.labels,
            "target": a.target,
            "mask": a.mask,
            "label_temperatures": a.label_temperatures,
            "Q": Q,
            "N": N,
            "K": K,
            "first": self.first,
            "mask_stride": mask_stride(a.scores, a.mask),
            "num_levels": a.num_levels,
            "in_batch": a.in_batch or 0.0,
            "exponent_scale": exponent_scale(a.temperature),
            "label_temperature": a.label_temperature,
            "TARGET": int(a.target_kind),
            "OWN": own,
            "ALL": not own or a.in_batch is not None,
            "WRITTEN": not own or (a.target is not None and a.target.shape == a.scores.shape),
        }
        everything = {**shared, **given}
        return Launch(kernel, grid, {name: everything[name] for name in kernel.arg_names}, num_warps, MAX_REGISTERS)
