"""The row losses from embeddings in Triton: what `wassrank.embeddings.tiles` does, and called as that is; kernels:
embeddings_kernels.py.

Forward: scores are computed where they are summed up, and never reach memory. Backward: ∂loss/∂S goes tile by tile
through a buffer of bounded size (swept_back), of which torch makes the two matrix products, in a fixed order. No
atomics and nothing decided on the host: a result has the same bits each run, and a step can be captured in a CUDA
graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wassrank.codes import EXCLUDED, Target
from wassrank.embeddings.arguments import Arguments
from wassrank.embeddings.similarity import inverse_norm
from wassrank.embeddings.tiles import Tile, swept_back
from wassrank.processes.passages import Block, Passages
from wassrank.reference.grade_wasserstein import TIE_ULPS

from .embeddings_kernels import (
    BY_LEVEL,
    OTHERS_SLOTS,
    OTHERS_TOP,
    OWN_ASKED,
    embeddings_finish_kernel,
    embeddings_gradient_kernel,
    embeddings_others_kernel,
    embeddings_own_kernel,
)
from .launch import ALIGNMENT, WARP, Launch, ceil_div, power_of_two, run
from .level_losses import on_device
from .level_transport import ORDER_1, ORDER_2, ORDER_ANY


@dataclass(frozen=True)
class ScoreTile:
    """Of scores a program has at a time."""

    rows: int
    block: int
    depth: int  # of the embeddings' width that is multiplied at a time
    num_warps: int
    num_stages: int

    def within(self, rows: int, columns: int, d: int) -> ScoreTile:
        """As large a one as there is work for."""
        rows, block = (max(LEAST, min(most, power_of_two(n))) for most, n in ((self.rows, rows), (self.block, columns)))
        depth = LEAST if d % ALIGNMENT else max(LEAST, min(self.depth, power_of_two(d)))
        return ScoreTile(rows, block, depth, self.num_warps, self.num_stages)


LEAST = 16
"""Rows, columns and depth of the smallest matrix product a tensor core does."""

# By the bytes of the embeddings' elements and by how much more a program knows of a score than its embeddings, from
# nothing to most: the largest of the shapes tried that 255 registers a thread hold, without spilling, on sm_80, sm_90
# and sm_100. The larger, the less is read from the second-level cache for a product; half types' largest is 64 scores a
# thread, which leaves room for others' sums and no more.
OTHERS_TILES = {
    2: (ScoreTile(128, 128, 64, 8, 3), ScoreTile(128, 64, 64, 8, 3), ScoreTile(64, 64, 64, 8, 3)),
    4: (ScoreTile(64, 64, 32, 8, 3), ScoreTile(64, 32, 32, 8, 3), ScoreTile(64, 32, 32, 8, 3)),
    8: (ScoreTile(64, 32, 16, 8, 2), ScoreTile(64, 32, 16, 8, 2), ScoreTile(64, 32, 16, 8, 2)),
}
OWN_TILES = {
    2: (ScoreTile(64, 64, 64, 8, 3), ScoreTile(32, 64, 64, 8, 3), ScoreTile(32, 64, 64, 8, 3)),
    4: (ScoreTile(64, 32, 16, 8, 3), ScoreTile(64, 32, 16, 8, 3), ScoreTile(16, 32, 32, 4, 3)),
    8: (ScoreTile(64, 32, 16, 8, 2), ScoreTile(32, 32, 16, 8, 2), ScoreTile(16, 16, 16, 4, 2)),
}
GRADIENT_TILES = {
    2: (ScoreTile(128, 64, 64, 8, 3), ScoreTile(64, 64, 64, 8, 3)),
    4: (ScoreTile(64, 64, 32, 8, 3), ScoreTile(64, 64, 32, 8, 3)),
    8: (ScoreTile(64, 32, 16, 8, 2), ScoreTile(64, 32, 16, 8, 2)),
}
MAX_REGISTERS = 255

FEW_LEVELS = 8
"""With more their sums, a register each four scores, take what a larger tile has."""

PROGRAMS = 512
"""Of a statistics kernel, or as many more as there are tiles of rows: some for every SM of the largest GPUs. Each keeps
sums of its rows: some PROGRAMS · rows of them, or one a query if that is more, whatever the number of passages."""

COUNTED = 1 << 23
"""Passages a part has at most, give or take a tile: float32 counts twice as many one by one."""

FINISH_ROWS, FINISH_WARPS, COUPLING = 8, 8, 8
"""Rows of a program, so that loads of their sums fill the memory's sectors; warps at most; elements of the [rows,
levels, levels] coupling a lane holds, two registers each."""


def statistics(a: Arguments, passages: Passages, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """`wassrank.embeddings.tiles.statistics`."""
    calls = EmbeddingsLaunches(a, passages.total, first)
    sums = calls.nothing_yet()
    for block in passages.tour():
        run(calls.plan_statistics(block, sums), a.queries.device)
    outputs, launch = calls.plan_finish(sums)
    run([launch], a.queries.device)
    return outputs


def gradients(
    a: Arguments, passages: Passages, first: int, state: Tensor, upstream: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`wassrank.embeddings.tiles.gradients`."""
    calls = EmbeddingsLaunches(a, passages.total, first)

    def fill(G: Tensor, tile: Tile) -> None:
        run([calls.plan_gradient(G, tile, state, upstream)], a.queries.device)

    return swept_back(fill, a, passages, first)


class Sums(NamedTuple):
    """Of rows' own passages and of others', which there may be none of; see embeddings_kernels.py."""

    own: Tensor
    others: Tensor | None


class EmbeddingsLaunches:
    """Of one sweep. On meta tensors too."""

    def __init__(self, a: Arguments, total: int, first: int) -> None:
        if total >= 2**31:
            raise ValueError(f"there are {total} passages: the Triton kernels count a row's columns in 32 bits")
        self.a, self.total, self.first = a, total, first
        (q, d), K = a.queries.shape, a.labels.shape[1]
        self.all_own = total == K
        self.others = not self.all_own and a.in_batch != EXCLUDED
        self.levels = max(2, power_of_two(a.num_levels))
        self.given = a.target if a.target_kind == Target.given and (a.wasserstein or a.kl) else None
        self.covers_row = self.given is not None and self.given.shape[1] == total
        self.mask_a_row = a.mask is not None and a.mask.dim() == 2
        self.exclude = a.exclude if a.exclude is not None and a.exclude.dtype == torch.bool else None
        self.pairs = self._in_order(a.exclude) if a.exclude is not None and self.exclude is None else None

        self.asked = a.kl != 0 and self.given is not None
        flags = self.mask_a_row or self.exclude is not None
        more = {
            "others": 2 if self.covers_row else flags or self.pairs is not None or self._others_logits,
            "own": 2 if a.num_levels > FEW_LEVELS else flags or self.given is not None,
            "gradient": flags or self.given is not None or (a.info_nce != 0 and a.positives is not None),
        }
        size = a.queries.element_size()
        self.others_tile = OTHERS_TILES[size][more["others"]].within(q, total, d)
        self.own_tile = OWN_TILES[size][more["own"]].within(q, total, d)
        self.gradient_tile = GRADIENT_TILES[size][more["gradient"]].within(q, total, d)
        # A program's rows have their own passages side by side.
        self.own_parts = self._parts(self.own_tile, total if self.all_own else min(total, self.own_tile.rows * K))
        self.others_parts = self._parts(self.others_tile, total)
        self.query_norms = inverse_norm(a.queries, a.computing) if a.cosine else None
        self._passage_norms: tuple[Tensor, Tensor] | None = None

    def nothing_yet(self) -> Sums:
        """The sums before any passage."""
        own = self._zeros(self.own_parts, BY_LEVEL.value + 4 * self.a.num_levels)
        own[:, : OWN_ASKED.value] = -torch.inf
        if not self.others:
            return Sums(own, None)
        others = self._zeros(self.others_parts, OTHERS_SLOTS.value)
        others[:, OTHERS_TOP.value] = -torch.inf
        return Sums(own, others)

    def _zeros(self, parts: int, slots: int) -> Tensor:
        return self.a.queries.new_zeros((parts, slots, len(self.a.queries)), dtype=self.a.computing)

    def plan_statistics(self, block: Block, sums: Sums) -> list[Launch]:
        """Adds a block of passages to the sums."""
        a = self.a
        given = {
            "q": len(a.queries),
            "n": len(block.passages),
            "GIVEN_BY_LEVEL": self.given is not None and a.wasserstein != 0,
            "LEVELS": self.levels,
        }
        by_best = a.info_nce != 0 and a.positives is None
        own = {"sums": sums.own, "target": self.given, "LOGITS": self._others_logits or by_best, "ASKED": self.asked}
        others = {
            "sums": sums.others,
            "target": self.given if self.covers_row else None,
            "LOGITS": self._others_logits,
            "ASKED": self.asked and self.covers_row,
        }
        launches = [self._statistics(embeddings_own_kernel, self.own_tile, self.own_parts, block, given | own)]
        if self.others:
            launches.append(
                self._statistics(embeddings_others_kernel, self.others_tile, self.others_parts, block, given | others)
            )
        return launches

    @property
    def _others_logits(self) -> bool:
        """Whether a loss looks at their sum; InfoNCE looks at its positives' alone."""
        return self.a.kl != 0 and not self.asked

    def _statistics(self, kernel: Any, tile: ScoreTile, parts: int, block: Block, given: dict[str, Any]) -> Launch:
        return self._launch(kernel, (ceil_div(len(self.a.queries), tile.rows), parts), tile, block, given)

    def _parts(self, tile: ScoreTile, columns: int) -> int:
        wanted = ceil_div(PROGRAMS, max(1, ceil_div(len(self.a.queries), tile.rows)))
        return max(1, min(wanted, ceil_div(columns, tile.block)), ceil_div(self.total, COUNTED))

    def plan_finish(self, sums: Sums) -> tuple[tuple[Tensor, Tensor, Tensor], Launch]:
        """Losses, weights and state, not yet computed, and the launch that computes them."""
        a, q = self.a, len(self.a.queries)
        losses, weights = a.queries.new_empty((2, q), dtype=torch.float64).unbind()
        state = a.queries.new_empty((q, a.state_width), dtype=a.computing)
        a_row = self.levels * (2 if a.p == 1 else self.levels)  # without a coupling, many a vector over levels
        rows = max(1, min(FINISH_ROWS, COUPLING * WARP * FINISH_WARPS // a_row))
        launch = Launch(
            embeddings_finish_kernel,
            grid=(ceil_div(q, rows),),
            arguments={
                "own_sums": sums.own,
                "others_sums": sums.others,
                "learned": a.learned,
                "labels": a.labels,
                "positives": a.positives if a.info_nce else None,
                "weight": a.weight,
                "label_temperatures": a.label_temperatures,
                "position": on_device(a.position, a.queries.device),
                "row_loss": losses,
                "row_weight": weights,
                "state": state,
                "q": q,
                "K": a.labels.shape[1],
                "own_parts": self.own_parts,
                "others_parts": self.others_parts,
                "in_batch": a.in_batch,
                "num_levels": a.num_levels,
                "wasserstein": a.wasserstein,
                "info_nce": a.info_nce,
                "kl": a.kl,
                "p": a.p,
                "tie": TIE_ULPS * torch.finfo(a.computing).eps,
                "temperature": a.temperature,
                "label_temperature": a.label_temperature,
                "WASSERSTEIN": a.wasserstein != 0,
                "INFO_NCE": a.info_nce != 0,
                "KL": a.kl != 0,
                "ORDER": {1.0: ORDER_1, 2.0: ORDER_2}.get(a.p, ORDER_ANY).value,
                "TARGET": int(a.target_kind),
                "OTHERS": self.others,
                "ROWS": rows,
                "LEVELS": self.levels,
            },
            num_warps=max(1, min(FINISH_WARPS, rows * a_row // (COUPLING * WARP))),
            max_registers=MAX_REGISTERS,
        )
        return (losses, weights, state), launch

    def plan_gradient(self, G: Tensor, tile: Tile, state: Tensor, upstream: Tensor) -> Launch:
        """Writes the gradient of Σ upstream · loss for a tile of scores."""
        rows, columns = G.shape
        return self._launch(
            embeddings_gradient_kernel,
            (ceil_div(rows, self.gradient_tile.rows) * ceil_div(columns, self.gradient_tile.block),),
            self.gradient_tile,
            tile.block,
            {
                "target": self.given if self.a.kl else None,
                "state": state,
                "upstream": upstream,
                "gradient": G,
                "row_begin": tile.row,
                "row_end": tile.row + rows,
                "column_begin": tile.begin,
                "width": columns,
                "in_batch": self.a.in_batch,
                "AFFINE": self.a.affine,
            },
        )

    def _launch(
        self, kernel: Any, grid: tuple[int, ...], tile: ScoreTile, block: Block, given: dict[str, Any]
    ) -> Launch:
        """With `given`, and what the kernels that compute scores share: of all that what the kernel asks for."""
        a, N = self.a, self.total
        shared = {
            "queries": a.queries,
            "passages": block.passages,
            "query_norms": self.query_norms,
            "passage_norms": self._norms_of(block.passages) if a.cosine else None,
            "learned": a.learned,
            "labels": a.labels,
            "mask": a.mask,
            "positives": a.positives if a.info_nce else None,
            "exclude": self.exclude,
            "pairs": self.pairs,
            "d": a.queries.shape[1],
            "N": N,
            "K": a.labels.shape[1],
            "M": 0 if self.pairs is None else len(self.pairs),
            "first": self.first,
            "begin": block.begin,
            "target_stride": 0 if self.given is None else self.given.shape[1],
            "num_levels": a.num_levels,
            "temperature": a.temperature,
            "MASK_A_ROW": self.mask_a_row,
            "TARGET_COVERS_ROW": self.covers_row,
            "ALL_OWN": self.all_own,
            "OTHERS": self.others,
            "PRECISION": PRECISION,
            "ROWS": tile.rows,
            "BLOCK": tile.block,
            "DEPTH": tile.depth,
        }
        everything = shared | given
        arguments = {name: everything[name] for name in kernel.arg_names}
        return Launch(kernel, grid, arguments, tile.num_warps, MAX_REGISTERS, tile.num_stages)

    def _norms_of(self, passages: Tensor) -> Tensor:
        """A block's inverse norms, which its launches share."""
        if self._passage_norms is None or self._passage_norms[0] is not passages:
            self._passage_norms = passages, inverse_norm(passages, self.a.computing)
        return self._passage_norms[1]

    def _in_order(self, pairs: Tensor) -> Tensor:
        """As the places in [q, N], rising; of none behind all."""
        row, column = pairs.unbind(1)
        inside = (row >= 0) & (row < len(self.a.queries)) & (column >= 0) & (column < self.total)
        return torch.where(inside, row * self.total + column, torch.iinfo(torch.int64).max).sort().values


PRECISION = "ieee" if torch.version.hip else "tf32x3"
"""How float32 embeddings are multiplied: on NVIDIA's tensor cores in three products, which keep float32's accuracy as
one would not. The others have none to spare."""
