"""How kernels are launched: tile sizes and warps from a small heuristic, and the launch itself as data, so that it can
be compiled ahead of time as well as run. No autotuning: the first step is as fast as the second, and two runs give the
same bits. The numbers come from the compiled code (registers, spills, exchanges between threads), not yet from timings.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton

WARP = 32

OWN_SCORES = 8
"""Own passages a lane reads at a time: two 16-byte loads of float32 in flight."""

OWN_SUMMANDS = 128
"""Own passages a lane reads at a time, times levels: with 8 of 32 levels sm_100 code spills, with 4 it does not."""

OTHERS_SCORES = 16
"""Other queries' passages a lane reads at a time: it keeps three numbers of them, so more can be in flight."""

COUPLING = 8
"""Elements of the epilogue's [rows, levels, levels] float64 coupling a lane holds, two registers each."""

MAX_WARPS = 8

MAX_ROWS = 8
"""Rows a program handles when they are short: enough to fill a warp's lanes, few enough that a few hundred rows still
spread over the GPU."""

BACKWARD_SCORES, BACKWARD_WARPS = 1024, 4
"""Scores a program of the backward handles, 8 a lane: one 16-byte load of a half type."""

REDUCE_BLOCK, REDUCE_WARPS = 1024, 4
"""The reduction over rows is one program, and a batch has hundreds of rows to a few thousand."""

ALIGNMENT = 16
"""Triton knows of an integer argument whether it is a multiple of this, which decides whether loads can be wide."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch."""

    kernel: Any  # a triton JITFunction
    grid: tuple[int, ...]
    arguments: dict[str, Any]  # by parameter name
    num_warps: int

    def run(self) -> None:
        if 0 not in self.grid:
            self.kernel[self.grid](**self.arguments, num_warps=self.num_warps)


@dataclass(frozen=True)
class Work:
    """What a pass must do at least, to set its time against the device's bandwidth and peak."""

    bytes: int  # read and written, each once
    flops: int  # of the computing type; an exponential counts as one


def run(launches: Sequence[Launch], device: torch.device) -> None:
    """Queues the launches on the device's current stream."""
    if device.type == "cpu" and not triton.knobs.runtime.interpret:
        raise RuntimeError(
            "Triton runs on the CPU only in its interpreter: set TRITON_INTERPRET=1 before importing triton"
        )
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        for launch in launches:
            launch.run()


@dataclass(frozen=True)
class Block:
    """Columns read at a time, as rows.py views them."""

    unroll: int
    lanes: int
    vector: int


@dataclass(frozen=True)
class ForwardTile:
    rows: int  # rows a program
    own: Block
    others: Block
    levels: int  # num_levels, rounded up to a power of two
    num_warps: int


@functools.lru_cache
def forward_tile(
    N: int,
    K: int,  # own passages a row
    others: int,  # other passages a row that are read, 0 for none
    num_levels: int,
    own_bytes: int,  # of the narrowest element read of an own passage: score, label, mask or target
    others_bytes: int,  # likewise
) -> ForwardTile:
    """A row gets the warps that its wider sweep or its epilogue fills; one warp with lanes to spare, several rows."""
    levels = max(2, power_of_two(num_levels))
    own_scores = min(OWN_SCORES, OWN_SUMMANDS // levels)
    own_block, others_block = power_of_two(K), power_of_two(N if others else 1)
    lanes = max(own_block // own_scores, others_block // OTHERS_SCORES, levels**2 // COUPLING)
    num_warps = min(MAX_WARPS, max(1, lanes // WARP))
    rows = min(MAX_ROWS, max(1, WARP // max(1, lanes)))
    lanes = WARP * num_warps

    def block(width: int, scores_a_lane: int, narrowest: int, aligned: bool) -> Block:
        width = min(width, scores_a_lane * lanes)
        # What Triton's coalescing pass makes of it: 16 bytes of the narrowest tensor, if a lane holds as many elements.
        vector = min(16 // narrowest, max(1, rows * width // lanes), width) if aligned else 1
        across = min(lanes, width // vector)
        return Block(width // (across * vector), across, vector)

    return ForwardTile(
        rows=rows,
        own=block(own_block, own_scores, own_bytes, aligned=N % ALIGNMENT == 0 and K % ALIGNMENT == 0),
        others=block(others_block, OTHERS_SCORES, others_bytes, aligned=N % ALIGNMENT == 0),
        levels=levels,
        num_warps=num_warps,
    )


@dataclass(frozen=True)
class BackwardTile:
    rows: int
    block: int


@functools.lru_cache
def backward_tile(N: int) -> BackwardTile:
    block = min(power_of_two(N), BACKWARD_SCORES)
    return BackwardTile(rows=BACKWARD_SCORES // block, block=block)


def power_of_two(n: int) -> int:
    """The smallest power of two ≥ n; 1 for 0."""
    return 1 << max(0, n - 1).bit_length()


def ceil_div(n: int, d: int) -> int:
    return -(-n // d)
