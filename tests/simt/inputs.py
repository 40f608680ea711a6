"""What the CUDA kernels are run on: the conformance table in every dtype, and what that table does not reach in them.

The latter are the ways rows are divided among threads, rows that are not aligned, sums that must be rescaled, and
labels that are no grade, which the CPU refuses and a kernel answers with NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from cases import LEVEL_CASES as CASES
from cases import Case
from test_conformance import DTYPES, loss_and_gradient
from test_operators import handed_over
from torch import Tensor

from wassrank.codes import EXCLUDED, Reduction
from wassrank.reference.rows import compute_dtype

from .driver import Call


@dataclass(frozen=True)
class Input:
    case: Case
    dtype: torch.dtype = torch.float32
    misaligned: int = 0
    stray: tuple[int, float] | None = None  # (row, label): a label of that row is no grade, or no number
    tuning: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.case.name}-{str(self.dtype).removeprefix('torch.')}"

    @cached_property
    def call(self) -> Call:
        a = handed_over(self.case)
        C = compute_dtype(self.dtype)
        if self.stray is not None:
            row, label = self.stray
            labels = self.case.rows(a.labels)[row]
            labels[len(labels) // 2] = label
        unreduced = a.reduction == Reduction.none
        of_C = ["target", "weight", "label_temperatures", *(["labels", "position"] if self.case.is_sorted else [])]
        computed: dict[str, Any] = {name: getattr(a, name).to(C) for name in of_C if getattr(a, name) is not None}
        return Call(
            a._replace(scores=a.scores.to(self.dtype), **computed),
            grad_loss=torch.linspace(0.5, 1.5, a.queries, dtype=C) if unreduced else torch.tensor(0.5, dtype=C),
            misaligned=self.misaligned,
            tuning=self.tuning,
        )

    def expected(self) -> tuple[Tensor, Tensor]:
        """Loss and gradient of the reference in float64. It refuses a label that is no grade: NaN is put in here."""
        if self.case.queries == 0 and self.case.options.get("reduction") == "none":
            return torch.zeros(0), torch.zeros(0, 0)
        loss, gradient = loss_and_gradient(self.case, torch.float64, "torch", "cpu", like=self.dtype)
        if self.stray is not None:
            row, _ = self.stray
            self.case.rows(gradient)[row][self.case.rows(taking_part(self.call))[row]] = torch.nan
            if loss.ndim:
                loss[row] = torch.nan
            else:
                loss.fill_(torch.nan)
        return loss, gradient


def own(call: Call) -> Tensor:  # bool, as the scores
    a = call.arguments
    if a.labels.shape == a.scores.shape:
        return torch.ones_like(a.scores, dtype=torch.bool)
    blocks: Tensor = torch.block_diag(*torch.ones(a.queries, 1, a.labels.shape[1]))
    return blocks.bool()


def taking_part(call: Call) -> Tensor:  # bool, as the scores
    a = call.arguments
    real = a.scores != -torch.inf
    if a.in_batch == EXCLUDED:
        real &= own(call)
    if a.mask is not None:
        real &= a.mask if a.mask.shape == real.shape else a.mask.reshape(-1)
    return real


NONE = {"reduction": "none"}


def _rising(scores: Tensor, labels: Tensor) -> None:
    scores.copy_(torch.linspace(-3, 3, scores.shape[1], dtype=torch.float64) + 0.1 * scores)


def _large(scores: Tensor, labels: Tensor) -> None:
    scores.copy_(300 + 1e-3 * scores)


def _all_impossible(scores: Tensor, labels: Tensor) -> None:
    scores.fill_(-torch.inf)


def _first_impossible_second_not_a_number(scores: Tensor, labels: Tensor) -> None:
    scores[0] = -torch.inf
    scores[1, 600] = torch.nan


def stray(name: str, row: int, label: float, dtype: torch.dtype = torch.float32, **case: Any) -> Input:
    defaults: dict[str, Any] = {"Q": 4, "K": 9, "options": NONE}
    return Input(Case(name, **defaults | case), dtype, stray=(row, label))


def long_rows(name: str, K: int, dtype: torch.dtype = torch.float32, misaligned: int = 0, **case: Any) -> Input:
    """Of more than 4 KiB of scores: a block a row."""
    defaults: dict[str, Any] = {"Q": 2, "dense": True}
    return Input(Case(name, K=K, **defaults | case), dtype, misaligned)


def all_losses(name: str, dtype: torch.dtype = torch.float32, misaligned: int = 0, **case: Any) -> Input:
    """Wasserstein, InfoNCE and KL together."""
    options = {"wasserstein": 0.5, "info_nce": 1.0, "kl": 0.75} | case.pop("options", {})
    return Input(Case(f"{name}, all losses", "combined_loss", **case, options=options), dtype, misaligned)


PACKED = (5, 0, 1, 39, 3, 8, 65)  # begin anywhere
UP_TO_31 = {"num_levels": 32, "p": 2.0}
UNEVEN = {"num_levels": 32, "position": [0.0, 0.0, *(float(x * x) for x in range(1, 31))]}  # two in one place

OWN = [
    Input(Case("misaligned", K=11, Q=3, dense=True, label_dtype=torch.int16), torch.float32, 1),
    Input(Case("misaligned", K=7, Q=3, dense=True, target="exp2"), torch.float64, 1),
    Input(Case("misaligned", K=40, Q=3, dense=True, label_dtype=torch.uint8, mask="scores"), torch.float16, 3),
    Input(Case("misaligned", K=32, Q=3, dense=True, label_dtype=torch.int32), torch.bfloat16, 5),
    Input(Case("misaligned, in-batch", K=33, Q=3, mask="labels", target="given"), torch.float16, 7),
    Input(Case("excluded, given own", K=9, mask="labels", target="given_own", options={"in_batch": None})),
    Input(Case("rising", Q=2, K=200, dense=True, edit=_rising, options={"temperature": 0.02})),
    Input(Case("rising, in-batch", Q=5, K=160, edit=_rising, options={"temperature": 0.02})),
    Input(Case("wide scores, cold", Q=2, K=20, dense=True, spread=1e4, options={"temperature": 1e-3})),
    Input(Case("tiny differences, cold", Q=2, K=20, dense=True, edit=_large, options={"temperature": 1e-3})),
    Input(Case("nothing but empty rows", edit=_all_impossible, weight=True)),
    Input(Case("no query, unreduced", Q=0, options=NONE)),
    Input(Case("no query, sum", Q=0, dense=True, options={"reduction": "sum"})),
    stray("stray", 1, 99, dense=True),
    stray("stray, half", 3, 99, torch.float16, dense=True),
    stray("stray, mean", 1, 99, options={}),
    stray("stray, negative", 0, -1, label_dtype=torch.int8),
    stray("stray, the first beyond", 2, 8, label_dtype=torch.int16),
    stray("stray, would wrap to 0", 0, 2**32, target="given"),
    stray("stray, beyond 32 levels", 0, 32, options={"num_levels": 32} | NONE),
    stray("stray, row without a gain", 2, -7, num_grades=1, target="linear"),
    long_rows("block rows", 550),
    long_rows("block rows, odd", 667, misaligned=2, Q=3, label_dtype=torch.int32, mask="scores", options={"p": 2.0}),
    long_rows("block rows, levels", 263, torch.float64, 1, num_grades=32, options={"num_levels": 32, "p": 1.5}),
    long_rows("block rows, linear", 1101, torch.float16, label_dtype=torch.uint8, target="linear"),
    long_rows("block rows, given", 1050, torch.bfloat16, target="given", weight=True),
    long_rows("block rows, in-batch", 777, dense=False, mask="labels", target="given"),
    long_rows("block rows, in-batch, half", 1301, torch.bfloat16, dense=False, options=NONE),
    long_rows("block rows, excluded", 1200, dense=False, options={"in_batch": None}),
    long_rows("block rows, rising", 1500, edit=_rising, label_dtype=torch.int8, options={"temperature": 0.05}),
    long_rows("block rows, empty", 400, Q=3, edit=_first_impossible_second_not_a_number, options=NONE),
    replace(long_rows("block rows, stray", 600, options=NONE), stray=(1, 99)),
    Input(Case("uneven levels", dense=True, K=40, num_grades=32, options=UNEVEN | {"p": 1.5})),
    all_losses("misaligned", torch.float16, 3, K=40, Q=3, dense=True, label_dtype=torch.uint8, mask="scores"),
    all_losses("misaligned, in-batch", torch.bfloat16, 5, K=33, Q=3, target="given", positives=True),
    all_losses("rising", Q=2, K=200, dense=True, edit=_rising, options={"temperature": 0.02}),
    all_losses("rising, in-batch", Q=5, K=160, edit=_rising, target="given", options={"temperature": 0.02}),
    all_losses("32 levels", num_grades=32, K=20, mask="labels", options=UP_TO_31 | {"in_batch": 31}),
    all_losses("32 levels, given", torch.float64, num_grades=32, K=20, target="given", options=UP_TO_31),
    all_losses("one level", num_grades=1, target="exp2", options={"num_levels": 1} | NONE),
    all_losses("named positives", num_grades=8, K=9, positives=True),
    all_losses("excluded, given own", K=9, mask="labels", target="given_own", options={"in_batch": None}),
    all_losses("nothing but empty rows", edit=_all_impossible, weight=True, positives=True),
    all_losses("block rows", K=1050, Q=2, dense=True, positives=True, weight=True),
    all_losses("block rows, in-batch", torch.bfloat16, K=1301, Q=2, target="given", mask="scores", options=NONE),
    all_losses("block rows, 32 levels", torch.float64, 1, K=263, Q=2, num_grades=32, dense=True, options=UP_TO_31),
    all_losses("block rows, rising", K=1500, Q=2, dense=True, edit=_rising, options={"temperature": 0.05}),
    all_losses("block rows, empty", K=400, Q=3, dense=True, edit=_first_impossible_second_not_a_number, options=NONE),
    stray("stray, all losses", 1, 99, loss="combined_loss", options={"info_nce": 1.0, "kl": 1.0} | NONE),
    stray("stray, named positive", 1, 99, loss="info_nce", positives=True),
    stray("stray, kl given", 2, 8, loss="listwise_kl", target="given"),
    stray("stray, packed", 1, 99, packed=(7, 9, 4), loss="info_nce"),
    Input(Case("packed, misaligned", packed=PACKED, label_dtype=torch.uint8, mask="labels"), torch.float16, 3),
    all_losses("packed, misaligned", torch.bfloat16, 5, packed=PACKED, target="given", label_dtype=torch.int32),
    all_losses("packed, named positives", torch.float64, 1, packed=PACKED, positives=True, mask="labels"),
    Input(Case("packed block rows", packed=(1500, 0, 3, 6001), mask="labels", options={"p": 2.0})),
    all_losses("packed block rows", packed=(1500, 0, 3, 6001), positives=True, target="given", options=NONE),
    all_losses("packed, one long row", packed=(*[3] * 20, 6001, *[5] * 30), weight=True, num_grades=8),
]  # fmt: skip

CONFORMANCE = [Input(case, dtype) for case in CASES for dtype in DTYPES]

# Every number at one of its ends, on rows that are short or long by it.
TUNINGS = [
    {"warp_slots": 1, "max_team": 64},
    {"warp_slots": 1, "slots_per_thread": 1, "backward_threads": 32},
    {"warp_slots": 1, "slots_per_thread": 1 << 10, "short_row_threads": 32},
    {"warp_slots": 1 << 14, "short_row_threads": 512, "backward_threads": 128},
]
TUNED = [
    replace(given, tuning=tuning)
    for tuning in TUNINGS
    for given in [*OWN, *CONFORMANCE]
    if str(given) in {
        "in_batch-float16", "dense_six_levels-float32", "no_query-float32", "wide-float32", "wide_dense-bfloat16",
        "block rows, odd-float32", "block rows, levels-float64", "block rows, given-bfloat16", "rising-float32",
        "packed block rows-float32", "packed_combined_loss_long-float16", "packed block rows, all losses-float32",
        "block rows, in-batch, all losses-bfloat16", "info_nce_wide-float32", "rising, all losses-float32",
        "32 levels, given, all losses-float64",
    }
]  # fmt: skip
