"""How kernels are launched: tile sizes and warps from a small heuristic, and the launch itself as data, so that it can
be compiled ahead of time as well as run. The heuristic's numbers are an argument, by architecture: wassrank/tuning.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton

from wassrank.tuning import TritonTuning

WARP = 32

ALIGNMENT = 16
"""Triton knows of an integer argument whether it is a multiple of this, which decides whether loads can be wide."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch."""

    kernel: Any  # a triton JITFunction
    grid: tuple[int, ...]
    arguments: dict[str, Any]  # by parameter name
    num_warps: int
    max_registers: int | None = None
    """A thread's. Left to itself ptxas now and then spills a few bytes to fit one more block on an SM; told a bound, it
    only keeps to that."""
    num_stages: int | None = None
    """Of a loop over matrix products: how many turns' operands are in shared memory or on their way there."""

    @property
    def options(self) -> dict[str, int]:
        """Of the compiler."""
        given = {"num_warps": self.num_warps, "maxnreg": self.max_registers, "num_stages": self.num_stages}
        return {name: value for name, value in given.items() if value is not None}

    def run(self) -> None:
        if 0 not in self.grid:
            self.kernel[self.grid](**self.arguments, **self.options)


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
    logits: bool,  # whether they are summed up by level too
    asked: bool,  # whether a given target is held beside others' scores, for Σ T x
    own_bytes: int,  # of the narrowest element read of an own passage: score, label, mask or target
    others_bytes: int,  # likewise
    tuning: TritonTuning,
) -> ForwardTile:
    """A row gets the warps that its wider sweep or its epilogue fills; one warp with lanes to spare, several rows."""
    levels = max(2, power_of_two(num_levels))
    own_scores = max(1, min(tuning.own_scores, tuning.own_summands // (levels * (2 if logits else 1))))
    others_scores = tuning.others_scores // (2 if asked else 1)
    own_block, others_block = power_of_two(K), power_of_two(N if others else 1)
    lanes = max(own_block // own_scores, others_block // others_scores, levels**2 // tuning.coupling)
    num_warps = min(tuning.max_warps, max(1, lanes // WARP))
    rows = min(tuning.max_rows, max(1, WARP // max(1, lanes)))
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
        others=block(others_block, others_scores, others_bytes, aligned=N % ALIGNMENT == 0),
        levels=levels,
        num_warps=num_warps,
    )


PACKED_WIDTH = 128
"""Columns at least of a packed list that are read at a time, so that a list many times as long as the others does not
take all too many turns."""


def packed_width(Q: int, total: int) -> int:
    """Columns of packed lists that are read at a time. Their lengths are the device's to know, so this goes by their
    mean: most lists take one turn, longer ones several."""
    return max(PACKED_WIDTH, power_of_two(2 * total // max(1, Q)))


def packed_forward_tile(Q: int, total: int, num_levels: int, logits: bool, tuning: TritonTuning) -> ForwardTile:
    """A list a program, so that none waits for a longer one. They begin at any element: nothing is aligned."""
    width = packed_width(Q, total)
    tuning = dataclasses.replace(tuning, max_rows=1)
    return forward_tile(width + 1, width, 0, num_levels, logits, False, own_bytes=1, others_bytes=1, tuning=tuning)


SCANNED = 2
"""Points of a row in order that a lane holds where running sums are formed: of each some ten float64 numbers, two
registers each. With four, code for sm_80 and sm_90 spills."""

SEARCH_WARPS = 4
SEARCHERS = 1024
"""Programs at most that search one row, each block after block: a grid's second dimension ends at 65535."""


@dataclass(frozen=True)
class LineTile:
    block: int  # points of a row at a time
    num_warps: int


@dataclass(frozen=True)
class SortedTile:
    walk: LineTile  # the forward's; own passages, too
    others: Block
    search: LineTile  # quantiles: a lane waits for memory step by step, so one point each and many lanes
    searchers: int  # programs a row
    scan: LineTile  # coefficients


def sorted_tile(
    N: int,
    K: int,
    others: int,  # other passages a row that are read, 0 for none
    lists: int | None,  # how many, where they are packed
    narrowest: int,  # bytes of the narrowest element read of an other passage
    asked: bool,  # as in forward_tile
    tuning: TritonTuning,
) -> SortedTile:
    """A row a program, with the warps that its wider sweep fills."""
    width = K + (others > 0) if lists is None else packed_width(lists, K)
    tuning = dataclasses.replace(tuning, max_rows=1, own_scores=SCANNED)
    tile = forward_tile(N, width, others, 1, False, asked, own_bytes=4, others_bytes=narrowest, tuning=tuning)
    search = line_tile(width, 1, SEARCH_WARPS)
    return SortedTile(
        walk=LineTile(min(power_of_two(width), SCANNED * WARP * tile.num_warps), tile.num_warps),
        others=tile.others,
        search=search,
        searchers=max(1, min(SEARCHERS, ceil_div(width, search.block))),
        scan=line_tile(width, SCANNED, SEARCH_WARPS),
    )


def line_tile(points: int, a_lane: int, max_warps: int) -> LineTile:
    block = min(power_of_two(points), a_lane * WARP * max_warps)
    return LineTile(block, max(1, block // (a_lane * WARP)))


STAIRCASE_WARPS = 8
STAIRCASE_REGISTERS = 128
FEW_PAIRS = 128
"""With no more of them than a GPU has SMs a pair gets twice the warps: all that an SM has registers for. Lanes have one
cell then: with two, code for sm_100 spills."""

RESIDENT_WARPS = 1 << 12
"""The largest GPUs hold no more of so many registers: programs beyond would wait, and each has a workspace."""


@dataclass(frozen=True)
class StaircaseTile:
    programs: int  # each has pair after pair
    block: int
    num_warps: int


def staircase_tile(
    cells: int,  # a pair
    pairs: int,
    packed: bool,  # whether the workspace does not grow with the programs
) -> StaircaseTile:
    if pairs <= FEW_PAIRS:
        tile = line_tile(cells, 1, 2 * STAIRCASE_WARPS)
    else:
        tile = line_tile(cells, SCANNED, STAIRCASE_WARPS)
    programs = pairs if packed else min(pairs, RESIDENT_WARPS // tile.num_warps)
    return StaircaseTile(programs, tile.block, tile.num_warps)


PAIRED_A_LANE = 4
"""Points on either side: their loads wait for those of their order, so several are to be in flight."""

PAIRING_WARPS = 8


@dataclass(frozen=True)
class PairingTile:
    rows: int  # pairs a program
    block: int
    num_warps: int


def pairing_tile(points: int) -> PairingTile:
    """Of pairs with as many points on either side."""
    tile = line_tile(points, PAIRED_A_LANE, PAIRING_WARPS)
    return PairingTile(max(1, PAIRED_A_LANE * WARP // tile.block), tile.block, tile.num_warps)


@dataclass(frozen=True)
class BackwardTile:
    rows: int
    block: int
    num_warps: int


def packed_backward_tile(Q: int, total: int, tuning: TritonTuning) -> BackwardTile:
    """A list a program here too, with as many scores a thread as dense rows have."""
    block = min(packed_width(Q, total), tuning.backward_scores)
    return BackwardTile(rows=1, block=block, num_warps=max(1, tuning.backward_warps * block // tuning.backward_scores))


@functools.lru_cache
def backward_tile(N: int, tuning: TritonTuning) -> BackwardTile:
    block = min(power_of_two(N), tuning.backward_scores)
    return BackwardTile(tuning.backward_scores // block, block, tuning.backward_warps)


def power_of_two(n: int) -> int:
    """The smallest power of two ≥ n; 1 for 0."""
    return 1 << max(0, n - 1).bit_length()


def ceil_div(n: int, d: int) -> int:
    return -(-n // d)
