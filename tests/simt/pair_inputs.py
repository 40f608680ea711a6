"""What the CUDA kernels of `wassrank::wasserstein_1d` are run on: every form its arguments take, and the ways pairs are
divided among threads and memories."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from test_wasserstein_1d import TIES, problem, tied
from torch import Tensor

from wassrank.arguments import PairArguments
from wassrank.ops.wasserstein_1d import kept_shapes, long_order
from wassrank.reference.rows import compute_dtype

from .driver import DTYPES, TUNING, Results, as_bytes

Edit = Callable[[PairArguments], None]


@dataclass(frozen=True)
class PairInput:
    name: str
    clean: PairArguments
    edit: Edit | None = None  # in place: what makes no sense, which the CPU refuses and a kernel answers with NaN
    improper: Sequence[int] = ()  # pairs that it does that to
    tuning: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}-{str(self.clean.u_values.dtype).removeprefix('torch.')}"

    @cached_property
    def arguments(self) -> PairArguments:
        if self.edit is None:
            return self.clean
        tensors: dict[str, Any] = {name: t.clone() for name, t in self.clean._asdict().items() if isinstance(t, Tensor)}
        copy = self.clean._replace(**tensors)
        self.edit(copy)
        return copy

    def as_bytes(self) -> bytes:
        """`Pairs` of wasserstein_1d.cpp and the arrays."""
        a = self.arguments
        sides = [
            (a.u_values, a.u_weights, a.u_mask, a.u_offsets, long_order(a.u_values, a.u_mask, a.u_offsets)),
            (a.v_values, a.v_weights, a.v_mask, a.v_offsets, long_order(a.v_values, a.v_mask, a.v_offsets)),
        ]
        shared = [
            int(side[k] is not None and side[3] is None and side[k].shape[0] != a.pairs)  # type: ignore[union-attr]
            for k in range(3)
            for side in sides
        ]
        tuning = TUNING | self.tuning
        numbers = (
            *(a.pairs, DTYPES[a.u_values.dtype], a.u_values.shape[-1], a.v_values.shape[-1], *shared, a.wanted),
            *(tuning["short_row_threads"], tuning["max_team"]),
        )
        arrays = [as_bytes(t) for side in sides for t in side]
        return struct.pack(f"<{len(numbers)}qd", *numbers, a.p) + b"".join(
            struct.pack("<q", len(array)) + array for array in arrays
        )

    def read(self, results: Results) -> list[Tensor]:
        """Loss, slopes, potentials."""
        a = self.arguments
        return [results.tensor(shape, compute_dtype(a.u_values.dtype)) for shape in [(a.pairs,), *kept_shapes(a)]]

    def expected(self) -> list[Tensor]:
        """The CPU kernels', of what is proper."""
        outputs: list[Tensor] = [t.clone() for t in torch.ops.wassrank.wasserstein_1d(*self.clean)]
        a = self.clean
        for pair in self.improper:
            outputs[0][pair] = torch.nan
            for k, output in enumerate(outputs[1:]):
                offsets, mask = (a.u_offsets, a.u_mask) if k % 2 == 0 else (a.v_offsets, a.v_mask)
                if not a.wanted >> k & 1:
                    continue
                of_pair = output[pair] if offsets is None else output[offsets[pair] : offsets[pair + 1]]
                if mask is None:
                    of_pair.fill_(torch.nan)
                elif offsets is None:
                    of_pair[mask[pair if mask.shape[0] > 1 else 0]] = torch.nan
                else:
                    of_pair[mask[offsets[pair] : offsets[pair + 1]]] = torch.nan
        return outputs


def pairs(
    name: str,
    n: int,
    m: int,
    *,
    rows: int = 3,
    dtype: torch.dtype = torch.float32,
    p: float = 2.0,
    weighted: str = "uv",  # the sides that are
    masked: str = "",
    shared: str = "",  # of "xyabst", values, weights and masks: one row for all pairs
    packed: tuple[Sequence[int] | None, Sequence[int] | None] = (None, None),
    kind: str = "apart",
    wanted: int | None = None,
    **more: Any,
) -> PairInput:
    if packed != (None, None):
        rows = len(next(of for of in packed if of is not None))
    C = compute_dtype(dtype)
    tensors = problem(rows, n, m, seed=n + m) if kind == "apart" else tied(kind, rows, n, m, seed=n + m)
    x, y, a, b = (t.detach() for t in tensors)
    generator = torch.Generator().manual_seed(m)
    s, t = (torch.rand(of.shape, generator=generator) < 0.7 for of in (x, y))
    if masked:  # what is left has a weight
        a, b = a + 0.5, b + 0.5
    sides = []
    for side, (values, weights, mask) in enumerate(((x, a, s), (y, b, t))):
        lengths = packed[side]
        offsets = None
        if lengths is not None:
            offsets = torch.tensor([0, *lengths]).cumsum(0)
            total = int(offsets[-1])
            values, weights, mask = (
                of.flatten().repeat(1 + total // of.numel())[:total] for of in (values, weights, mask)
            )
        else:
            values, weights, mask = (
                of[:1] if letter in shared else of
                for letter, of in zip(("xas", "ybt")[side], (values, weights, mask), strict=True)
            )
        is_weighted, is_masked = "uv"[side] in weighted, "uv"[side] in masked
        given = (values.to(dtype), weights.to(C) if is_weighted else None, mask if is_masked else None, offsets)
        sides.append([None if of is None else of.clone() for of in given])
    everything = 0b11 | ("u" in weighted) << 2 | ("v" in weighted) << 3
    (x, a, s, uo), (y, b, t, vo) = sides  # type: ignore[assignment]
    arguments = PairArguments(x, y, a, b, s, t, uo, vo, rows, everything if wanted is None else wanted, p)
    return PairInput(name, arguments, **more)


def at(name: str, pair: int, place: int, value: float) -> Edit:
    def edit(a: PairArguments) -> None:
        getattr(a, name)[pair, place] = value

    return edit


def _no_weights(a: PairArguments) -> None:
    assert a.v_weights is not None
    a.v_weights[2] = 0


def _one_not_a_number_behind_masked(a: PairArguments) -> None:
    assert a.u_mask is not None
    a.u_mask[1] = torch.arange(a.u_mask.shape[1]) == 3
    a.u_values[1, 3] = torch.nan


def _masked_hold_anything(a: PairArguments) -> None:
    for values, weights, mask in ((a.u_values, a.u_weights, a.u_mask), (a.v_values, a.v_weights, a.v_mask)):
        assert weights is not None
        assert mask is not None
        for what in (torch.nan, torch.inf, -torch.inf, -1.0):
            hidden = ~mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(3)) < 0.6)
            values[hidden], weights[hidden] = what, -what


def _nothing(side: str, row: int) -> Callable[[PairInput], PairInput]:
    def edit(given: PairInput) -> PairInput:
        mask = getattr(given.clean, f"{side}_mask")
        mask[row] = False
        return given

    return edit


def _twice_the_same(given: PairInput) -> PairInput:
    """Few points with masses, those of all sizes: threads' sums round, and not all alike."""
    a = given.clean
    assert a.u_weights is not None
    assert a.v_weights is not None
    sizes, few = torch.rand(2, *a.u_weights.shape, generator=torch.Generator().manual_seed(0))
    a.u_weights.mul_(torch.exp2(-40 * sizes) * (few < 0.1))
    a.v_weights.copy_(a.u_weights.flip(-1))
    a.v_values.copy_(a.u_values.flip(-1))
    return given


ALL_DTYPES = list(DTYPES)
UNEVEN, OTHERS = (4, 1, 0, 7, 30, 3, 0, 700), (5, 2, 4, 7, 0, 90, 0, 1)
MIXED, MIXED_OTHERS = (3, 6001, 0, 40, 5, 1500), (900, 17, 3, 40, 2500, 0)

INPUTS = [
    *(
        pairs(f"p={p}", 6, 9, dtype=dtype, p=p, masked=masked)
        for p in (1.0, 1.5, 2.0, 3.0)
        for dtype in ALL_DTYPES
        for masked in ("", "uv")
    ),
    *(pairs(f"{kind}, {n} x {m}, p={p}", n, m, rows=8, dtype=torch.float64, p=p, kind=kind)
      for kind in TIES for n, m in ((6, 6), (5, 11), (40, 64)) for p in (1.0, 2.5)),
    *(pairs(f"paired, {n}, p={p}", n, n, dtype=dtype, p=p, weighted="", shared=shared)
      for dtype in ALL_DTYPES for n, p, shared in ((1, 2.0, ""), (7, 1.0, ""), (129, 1.5, "x"), (700, 2.0, "y"))),
    pairs("paired, tied", 40, 40, weighted="", kind="repeated values", p=1.0),
    pairs("paired, loss alone", 30, 30, weighted="", wanted=0),
    pairs("paired, one gradient", 30, 30, weighted="", wanted=0b10),
    pairs("uniform", 7, 11, weighted=""),
    pairs("uniform, ties", 8, 12, weighted="", p=1.0),
    pairs("uniform, masks", 40, 40, weighted="", masked="uv"),
    pairs("uniform, mask of one", 40, 40, weighted="", masked="v", dtype=torch.float64),
    pairs("uniform against weighted", 20, 31, weighted="v"),
    pairs("weighted against uniform", 20, 31, weighted="u", masked="u"),
    *(pairs(f"wanted {wanted:04b}", 20, 31, wanted=wanted) for wanted in (0, 1, 2, 4, 8, 0b1001, 0b1100)),
    pairs("a support for all", 30, 30, shared="xy"),
    pairs("everything for all", 30, 20, shared="xyabst", masked="uv"),
    pairs("values for all, masks of each", 30, 20, shared="x", masked="uv"),
    pairs("values of each, weights and masks for all", 30, 20, shared="abst", masked="uv"),
    pairs("values for all, packed other", 30, 20, shared="xa", packed=(None, OTHERS)),
    *(pairs("packed", 64, 64, dtype=dtype, packed=(UNEVEN, OTHERS), masked=masked)
      for dtype in ALL_DTYPES for masked in ("", "u")),
    pairs("packed, uniform", 64, 64, packed=(UNEVEN, UNEVEN), weighted="", p=1.0),
    pairs("packed, mixed", 64, 64, packed=(MIXED, MIXED_OTHERS), masked="v"),
    pairs("packed, mixed, doubles", 64, 64, packed=(MIXED_OTHERS, MIXED), dtype=torch.float64, p=1.5),
    pairs("packed, warps among which is a long one", 64, 64, packed=((*[3] * 20, 3000, *[5] * 30), (*[4] * 50, 4000))),
    pairs("a support for many lists", 30, 64, shared="xa", packed=(None, [2] * 180 + [3000] + [1] * 19)),
    pairs("lists on a support for many", 64, 30, shared="yb", packed=([3] * 100 + [0, 900, 500] + [1] * 99, None)),
    pairs("one more than fits", 8, 8, packed=([1] * 8, (0, 0, 0, 8, 0, 0, 0, 0))),
    pairs("around a warp's most", 128, 128, dtype=torch.float64),
    pairs("tied weights", 8, 12, kind="uniform weights"),
    pairs("a block's least", 128, 129),
    pairs("blocks", 700, 900),
    pairs("blocks, masks", 700, 900, masked="uv", dtype=torch.bfloat16, p=1.0),
    pairs("blocks, zero weights", 600, 1100, kind="zero weights", dtype=torch.float64),
    pairs("blocks, one-hot weights", 800, 800, kind="one-hot weights", p=1.5),
    pairs("blocks, repeated values", 500, 700, kind="repeated values", p=1.0),
    pairs("blocks, identical", 800, 800, kind="identical", dtype=torch.float64),
    _twice_the_same(pairs("blocks, twice the same", 1000, 1000, rows=6)),
    pairs("blocks, uniform, ties", 600, 900, weighted="", p=1.0),
    pairs("blocks, loss alone", 1500, 1300, wanted=0),
    pairs("as many as fit", 1024, 1024, rows=2),
    pairs("workspace", 3000, 2500),
    pairs("workspace, doubles", 1300, 1200, dtype=torch.float64, masked="u", p=1.0),
    pairs("workspace, one-hot weights", 2000, 2400, kind="one-hot weights"),
    pairs("longer than a block sorts", 9000, 50, rows=2, masked="u"),
    pairs("longer than a block sorts, halves", 60, 8500, rows=2, dtype=torch.float16, shared="y", masked="v"),
    pairs("small teams", 700, 900, tuning={"max_team": 64}),
    pairs("one warp a block", 30, 40, rows=5, tuning={"short_row_threads": 32}),
    pairs("many warps a block", 100, 140, rows=37, tuning={"short_row_threads": 512}),
    pairs("no pairs", 4, 5, rows=0),
    pairs("no points", 0, 5),
    pairs("no points at all", 0, 0, weighted=""),
    _nothing("u", 1)(pairs("a side without points", 6, 9, masked="u")),
    _nothing("v", 2)(pairs("the other without points", 6, 9, masked="uv", weighted="")),
    pairs("NaN", 6, 9, edit=at("u_values", 1, 2, torch.nan), improper=[1]),
    pairs("infinite", 6, 9, masked="u", edit=at("v_values", 0, 2, -torch.inf), improper=[0]),
    pairs("NaN, paired", 6, 6, weighted="", edit=at("u_values", 1, 2, torch.nan), improper=[1]),
    pairs("infinite, paired", 300, 300, weighted="", edit=at("v_values", 0, 7, torch.inf), improper=[0]),
    pairs("negative weight", 300, 200, edit=at("u_weights", 1, 250, -1e-3), improper=[1]),
    pairs("NaN weight", 6, 9, edit=at("v_weights", 1, 2, torch.nan), improper=[1]),
    pairs("infinite weight", 6, 9, edit=at("v_weights", 0, 8, torch.inf), improper=[0]),
    pairs("no mass", 6, 9, edit=_no_weights, improper=[2]),
    pairs("NaN, shared", 6, 9, shared="x", edit=at("u_values", 0, 2, torch.nan), improper=[0, 1, 2]),
    pairs("NaN behind masked", 6, 9, masked="u", wanted=0b1010, edit=_one_not_a_number_behind_masked, improper=[1]),
    *(pairs("masked hold anything", 30, 40, masked="uv", dtype=dtype, edit=_masked_hold_anything)
      for dtype in ALL_DTYPES),
]  # fmt: skip
