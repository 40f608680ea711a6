"""Calls of csrc/cuda/gaussian_wasserstein.cu on the SIMT machine, and what plain_passes.py says of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from test_gaussian_wasserstein import FORMS, arguments_of_form
from torch import Tensor

from simt.driver import DTYPES, NUMBERS, OVERFLOW, POISON, RACE, Mutant, Results, as_bytes
from wassrank.codes import Target
from wassrank.gaussian import plain_passes as plain
from wassrank.gaussian.passes import Arguments, Moment, Row, Sum, Turned

LABELS = {
    torch.int8: 0,
    torch.int16: 1,
    torch.int32: 2,
    torch.int64: 3,
    torch.uint8: 4,
    torch.float32: 5,
    torch.float64: 6,
}  # of csrc/common/gaussian.h


class Found(NamedTuple):
    """In the order of gaussian_wasserstein.cpp."""

    row: Tensor  # [Q, 6]
    excess: Tensor  # [Q, K], or [0, K]
    moments: Tensor  # [4, N]
    sums: Tensor  # [Q, 3]
    products: Tensor  # [Q, N / K], or [Q, 0]
    P: Tensor  # [Q, c]
    E_T: Tensor  # [Q, c]
    along: Tensor  # [Q]
    gradient: Tensor  # [Q, N], as scores, with nothing turned
    of_tile: Tensor  # [Q, c]
    of_parts: Tensor  # [Q, N], or [0, N]


@dataclass(frozen=True)
class Call:
    """Arguments of the first pass, and what distance.py would have made for those that follow: any numbers will do."""

    name: str
    a: Arguments
    first: int
    tile: tuple[int, int]  # its columns
    columns: Tensor  # [4, N]
    excess: Tensor  # [N]: of the whole batch; empty: not the form of blocks
    flag: Tensor | None
    along: Tensor  # [Q]
    scale: Tensor  # []
    turned: Tensor  # [Q, c]
    W: Tensor  # [Q, N / K]
    everywhere: Tensor  # [Q]
    misaligned: int = 0
    size: tuple[int, int, int] | None = None  # Q, N and K of a batch too large to hold, of which this is the end

    def __str__(self) -> str:
        return self.name

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.size or (*self.a.scores.shape, self.a.labels.shape[1])

    def as_bytes(self) -> bytes:
        """`GaussianHeader` and the arrays."""
        a, (Q, N, K) = self.a, self.numbers
        integers = (
            Q,
            N,
            K,
            self.first,
            DTYPES[a.scores.dtype],
            LABELS[a.labels.dtype],
            a.labels.element_size(),
            a.target_kind,
            0 if a.target is None else a.target.shape[1],
            N if a.mask is not None and a.mask.dim() == 2 else 0,
            a.mask is not None,
            a.label_temperatures is not None,
            K == N,
            a.in_batch is None,
            a.num_levels or 0,
            self.blocks,
            self.flag is not None,
            *self.tile,
            self.misaligned,
            *((1, self.moments_kept) if self.size else (0, 0)),
        )
        numbers = (a.in_batch or 0.0, a.temperature, a.label_temperature)
        arrays = (
            *a[:2],
            *a[2:5],
            self.columns,
            self.excess,
            self.flag,
            self.along,
            self.scale,
            self.turned,
            self.W if self.blocks else None,
            self.everywhere if self.blocks else None,
        )
        header = struct.pack(f"<{len(integers)}q{len(numbers)}d", *integers, *numbers)
        return header + b"".join(struct.pack("<q", len(array)) + array for array in map(as_bytes, arrays))

    @property
    def blocks(self) -> bool:
        return self.a.blocks if self.size is None else self.size[1] != self.size[2]

    @property
    def moments_kept(self) -> int:
        """Of a batch too large to hold: those of the last sum, for the columns of the last block."""
        return self.numbers[1] % 32

    def read(self, results: Results) -> Found:
        Q, N, K = self.numbers
        width, blocks = self.tile[1] - self.tile[0], self.blocks
        kept, dtype = 1 if self.size else Q, self.a.scores.dtype
        doubles: tuple[tuple[int, ...], ...] = (
            (kept, len(Row)),
            (kept, K * blocks),
            (1, self.moments_kept) if self.size else (len(Moment), N),
            (kept, len(Sum)),
            (kept, N // K if blocks else 0),
            (kept, width),
            (kept, width),
            (kept,),
        )
        out = [results.tensor(shape, torch.float64) for shape in doubles]
        out += [results.tensor((kept, n), dtype) for n in (N, N, N * blocks)]
        if not blocks:
            out[1], out[-1] = out[1].reshape(0, K), out[-1].reshape(0, N)
        return Found(*out)

    def expected(self) -> Found:
        a, (begin, end) = self.a, self.tile
        row, own = plain.PlainPasses(a, self.first).rows()
        sums, products = plain.PlainPasses(a, self.first).products(row, self.columns, self.excess, self.flag)

        def gradient(turned: Turned | Tensor | None, columns: tuple[int, int]) -> Tensor:
            out = poison(a.scores)
            plain.PlainPasses(a, self.first).gradient(row, self.columns, self.along, self.scale, out, *columns, turned)
            return out

        everything = 0, a.scores.shape[1]
        parts = Turned(self.W, self.everywhere, self.excess, self.flag)
        return Found(
            row,
            own,
            plain.PlainPasses(a, self.first).moments(row),
            sums,
            products,
            *plain.PlainPasses(a, self.first).tiles(row, self.columns, begin, end),
            plain.PlainPasses(a, self.first).along(row, self.columns),
            gradient(None, everything),
            gradient(self.turned, self.tile),
            gradient(parts, everything) if self.blocks else a.scores[:0],
        )


def poison(like: Tensor) -> Tensor:
    """As the driver fills outputs."""
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}[like.element_size()]
    return torch.full_like(like, -1, dtype=integers).view(like.dtype)


def poisoned(tensor: Tensor) -> Tensor:
    return tensor.view({8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]) == -1


def call(
    name: str,
    a: Arguments,
    *,
    rows: tuple[int, int] | None = None,  # of a larger batch
    flagged: bool = True,  # False: no flag at all
    misaligned: int = 0,
) -> Call:
    generator = torch.Generator().manual_seed(30)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    a = a._replace(scores=a.scores.detach(), temperature=0.7)
    row, own = plain.PlainPasses(a, 0).rows()
    moments, n = plain.PlainPasses(a, 0).moments(row), (row[:, Row.INVERSE] != 0).sum().clamp(min=1)
    first = 0
    if rows is not None:
        first = rows[0]
        part: dict[str, Any] = {
            name: t[slice(*rows)]
            for name, t in a._asdict().items()
            if isinstance(t, Tensor) and not (name == "mask" and t.dim() == 1)
        }
        a = a._replace(**part)
    (Q, N), K = a.scores.shape, a.labels.shape[1]
    impossible = (row[:, Row.IMPOSSIBLE] != 0).any()
    begin = N // 3
    end = max(begin, N - 1) if N > 2 else N
    return Call(
        name,
        a,
        first,
        (begin, end),
        torch.stack([moments[Moment.SUM_P] / n, moments[Moment.SUM_T] / n, random(N), random(N)]),
        own.view(-1),
        impossible if flagged and a.blocks and rows is None else None,
        random(Q),
        random(),
        random(Q, end - begin),
        random(Q, N // K) if a.blocks and K else random(Q, 0),
        random(Q),
        misaligned,
    )


def small(Q: int, N: int, K: int, dtype: torch.dtype = torch.float32, **options: Any) -> Arguments:
    generator = torch.Generator().manual_seed(Q + N)
    scores = torch.randn(Q, N, generator=generator, dtype=torch.float64).to(dtype)
    return Arguments(scores, torch.randint(0, 4, (Q, K), generator=generator), **options)


def calls() -> Iterator[Call]:
    for name in FORMS:
        for dtype in DTYPES:
            yield call(f"{name}, {str(dtype).removeprefix('torch.')}", arguments_of_form(name, dtype))
        if "excluded" not in name:
            yield call(f"{name}, rows 5 ... 11", arguments_of_form(name, torch.float32), rows=(5, 12), misaligned=3)
    for dtype in LABELS:
        for dense in (False, True):
            a = small(5, 15, 15 if dense else 3, num_levels=None if dtype.is_floating_point else 8)
            yield call(f"{dtype} labels, {dense=}", a._replace(labels=a.labels.to(dtype)))
    for Q, N, K in ((1, 7, 7), (2, 2, 1), (33, 33, 1), (2, 140, 70), (2, 2000, 1000), (3, 1500, 1500), (40, 3, 3)):
        yield call(f"{Q} x {N}, K={K}", small(Q, N, K), flagged=False)
    for Q, N, K in ((0, 0, 3), (0, 5, 5), (3, 0, 0)):
        yield call(f"{Q} x {N}, K={K}", small(Q, N, K))
    yield call("rows 500 ... 502", small(600, 600, 1), rows=(500, 503))
    given = arguments_of_form("own given", torch.float32)
    yield call("own given, others of grade 2", given._replace(in_batch=2.0))
    yield call("without a flag", arguments_of_form("own", torch.float32), flagged=False)
    mask = torch.rand(6, 18, generator=torch.Generator().manual_seed(32)) > 0.3
    mask[4] = False
    nothing = small(6, 18, 3, target_kind=int(Target.linear), mask=mask)
    nothing.labels[2] = 0
    yield call("rows of nothing", nothing)
    impossible = small(4, 12, 3)
    impossible.scores[1], impossible.scores[2, :2], impossible.labels[3] = -torch.inf, -torch.inf, 0
    yield call("rows of impossible scores", impossible)
    yield call("and without gains", impossible._replace(target_kind=int(Target.linear), in_batch=0.0))
    rising = small(3, 2100, 2100)
    yield call("rising", rising._replace(scores=torch.arange(2100.0).expand(3, 2100).contiguous() / 4))
    for name, value in (("NaN", torch.nan), ("+inf", torch.inf)):
        broken = small(4, 12, 3)
        broken.scores[1, 5] = value
        yield call(f"a score of {name}", broken)


CALLS = [*calls()]
SANITIZED = [c for c in CALLS if c.a.scores.dtype == torch.float32 or c.name == "own masked, float16"]
RACED = [c for c in SANITIZED if "labels" not in c.name and not c.first]  # they change no thread's way past a barrier
# Nor do most targets and masks. These are the forms and the sizes that do: others that ask for nothing, all the same or
# each its own, and one round of columns or several. The rest waits for `make test-full`.
RACED_FIRST = [
    c
    for c in RACED
    if c.name.removesuffix(", float32")
    in {"own", "own excluded", "own, impossible", "own given, row mask", "dense masked"}
    or (c.name not in {"rising", "3 x 1500, K=1500"} and "float" not in c.name and "own" not in c.name)
]


def huge() -> Call:
    """The end of a batch of 2^31 scores and more: its last row, last block of columns. The rows that do not run are no
    samples; the first is all zeros, and its own passage, of grade 0, asks for as much as all others."""
    Q = N = 50_011
    generator = torch.Generator().manual_seed(31)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    a = Arguments(random(1, N).to(torch.bfloat16), torch.ones(1, 1, dtype=torch.uint8))
    return Call(
        "huge", a, 0, (0, N), random(4, N), random(N), None, random(1), random(), random(1, N), random(1, N),
        random(1), size=(Q, N, 1),
    )  # fmt: skip


def end_of(call: Call) -> Found:
    """What gaussian_passes.py says of it, told that the first row and the last are all there are, with dense labels."""
    N, a = call.numbers[1], call.a
    scores = torch.cat([torch.zeros_like(a.scores), a.scores])
    labels = torch.zeros(2, N)
    labels[1, -1] = 1
    both = Call(
        call.name,
        a._replace(scores=scores, labels=labels, num_levels=None),
        0,
        call.tile,
        call.columns,
        call.excess[:0],
        None,
        call.along.expand(2),
        call.scale,
        call.turned.expand(2, N),
        *(torch.empty(0),) * 2,
    )
    found = both.expected()
    P, row = plain.predictions(both.a, 0, found.row)[1:], found.row[1:].clone()
    excess = plain.targets(both.a, 0, found.row)[1:, -1:]
    row[:, Row.REST] = plain.targets(both.a, 0, found.row)[1:, :1]
    gradient = poison(a.scores)
    mean, _, x, y = call.columns
    there = call.everywhere[:, None] + call.W * call.excess
    gradient[:] = call.scale * P * (x + y * (P - mean) - call.along[:, None] - there)
    return found._replace(
        row=row,
        excess=excess - row[:, Row.REST, None],
        moments=found.moments[Moment.SQUARES_T :, -call.moments_kept :],
        sums=found.sums[1:],
        products=P * call.excess,
        P=found.P[1:],
        E_T=found.E_T[1:],
        along=found.along[1:],
        gradient=found.gradient[1:],
        of_tile=found.of_tile[1:],
        of_parts=gradient,
    )


def stray(value: float, dense: bool) -> tuple[Call, Call]:
    """A call, and the same with a label in row 1 that cannot be."""
    a = small(4, 12, 12 if dense else 3, num_levels=8 if value in (-1, 8) else None)
    right = call("right", a._replace(labels=a.labels.to(torch.int32 if a.num_levels else torch.float64)))
    labels = right.a.labels.clone()
    labels[1, 1] = value
    return right, replace(right, a=right.a._replace(labels=labels))


BATCH, ROWS, TILE = "gaussian_batch.cuh", "gaussian_rows.cuh", "gaussian_columns.cuh"
PRODUCTS, GRADIENT = "gaussian_products.cuh", "gaussian_gradient.cuh"
OWN, PART, IMPOSSIBLE, WIDE = "own, float32", "own, rows 5 ... 11", "own, impossible, float32", "2 x 2000, K=1000"
FILLED, RESCALED = (
    "\n#pragma unroll\n  for (int i = 0; i < n; ++i) {",
    "found.total *= scaled_exp(found.top - highest);",
)
MUTANTS = [
    Mutant(*of, program="gaussian_wasserstein")
    for of in (
        ("no barrier before a tile is summed", TILE, f"  __syncthreads();{FILLED}", FILLED, *RACE, OWN),
        ("no barrier before the next sum", TILE, "  __syncthreads();  // what", "  // what", *RACE, OWN),
        ("one place for warps' numbers", "team_work.cuh", "turn_ ^= 1;", "", *RACE, WIDE),
        ("a state one row on", ROWS, "states + index", "states + 1 + index", *OVERFLOW, OWN),
        ("an excess one place on", ROWS, "(n - row.own_begin())", "(n + 1 - row.own_begin())", *OVERFLOW, OWN),
        ("a column too many", GRADIENT, "if (n < end)", "if (n <= end)", *OVERFLOW, OWN),
        ("a moment too many", TILE, "exists = n < batch.N", "exists = n <= batch.N", *OVERFLOW, OWN),
        ("products nobody asks for", PRODUCTS, "if (!with_products)", "if (false)", *OVERFLOW, "dense, float32"),
        ("only one round of columns", GRADIENT, "if (n < end)", "if (n < end && u == 0)", *POISON, WIDE),
        ("products of the first queries", PRODUCTS, "first < queries", "first < 1", *POISON, "rows 500 ... 502"),
        ("own passages of the first rows", BATCH, "(batch.first + index)", "index", *NUMBERS, PART),
        ("half of the lanes", "warp.cuh", "lanes / 2; distance", "lanes / 4; distance", *NUMBERS, OWN),
        ("the short way", GRADIENT, "!*turned.flag", "true", *NUMBERS, IMPOSSIBLE),
        ("P of impossible others", PRODUCTS, "other.score(n), mean", "0, mean", *NUMBERS, IMPOSSIBLE),
        ("impossible scores unseen", ROWS, "found.impossible |=", "found.impossible &=", *NUMBERS, IMPOSSIBLE),
        ("no scale for a higher score", ROWS, RESCALED, "", *NUMBERS, "rising"),
        ("squares about 0", TILE, "(T - mean_T) * (T - mean_T)", "(T - 0 * mean_T) * T", *NUMBERS, OWN),
        ("all rows are samples", TILE, "if (!sample.is_sample()) continue;", "", *NUMBERS, "rows of nothing"),
        (
            "others ask for something given",
            BATCH,
            "batch_.target ? 0",
            "false ? 0",
            *NUMBERS,
            "own given, others of grade 2",
        ),
        ("a row found in 32 bits", BATCH, "scores) + index * ", "scores) + int(index) * (int)", *NUMBERS, "huge"),
    )
]
# No mutant but a variant that must be right: blocks that stride over a row's columns.
FEW_CHUNKS = Mutant(
    "one block a row",
    "gaussian_wasserstein.cu",
    "std::min(kMaxGridY,",
    "std::min(int64_t{1},",
    "plain",
    "nothing",
    WIDE,
    program="gaussian_wasserstein",
)
