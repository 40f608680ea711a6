"""What the CUDA kernels are run on: the conformance table in every dtype, and what that table does not reach in them.

The latter are the ways rows are divided among threads, rows that are not aligned, sums that must be rescaled, and
labels that are no grade, which the CPU refuses and a kernel answers with NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from cases import CASES, Case
from test_conformance import DTYPES, loss_and_gradient
from test_operators import operator_arguments
from torch import Tensor

from wassrank.codes import EXCLUDED

from .driver import Call, computing


@dataclass(frozen=True)
class Input:
    case: Case
    dtype: torch.dtype = torch.float32
    misaligned: int = 0
    stray: tuple[int, int] | None = None  # (row, label): a label of that row is no grade
    tuning: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.case.name}-{str(self.dtype).removeprefix('torch.')}"

    @cached_property
    def call(self) -> Call:
        scores, labels, target, mask, weight, *rest = operator_arguments(self.case)
        C = computing(self.dtype)
        if self.stray is not None:
            row, label = self.stray
            labels[row, labels.shape[1] // 2] = label
        unreduced = self.case.options.get("reduction") == "none"
        grad_loss = torch.linspace(0.5, 1.5, self.case.Q, dtype=C) if unreduced else torch.tensor(0.5, dtype=C)
        return Call(
            scores.to(self.dtype),
            labels,
            None if target is None else target.to(C),
            mask,
            None if weight is None else weight.to(C),
            *rest,
            grad_loss=grad_loss,
            misaligned=self.misaligned,
            tuning=self.tuning,
        )

    def expected(self) -> tuple[Tensor, Tensor]:
        """Loss and gradient of the reference in float64. It refuses a label that is no grade: NaN is put in here."""
        if self.case.Q == 0 and self.case.options.get("reduction") == "none":
            return torch.zeros(0), torch.zeros(0, 0)
        loss, gradient = loss_and_gradient(self.case, torch.float64, "torch", "cpu", like=self.dtype)
        if self.stray is not None:
            row, _ = self.stray
            gradient[row] = torch.where(taking_part(self.call)[row], torch.nan, 0.0)
            if loss.ndim:
                loss[row] = torch.nan
            else:
                loss.fill_(torch.nan)
        return loss, gradient


def taking_part(call: Call) -> Tensor:  # [Q, N] bool
    real = call.scores != -torch.inf
    if call.in_batch == EXCLUDED and call.labels.shape != call.scores.shape:
        real &= torch.block_diag(*torch.ones(len(real), 1, call.labels.shape[1])).bool()
    if call.mask is not None:
        real &= call.mask if call.mask.shape == real.shape else call.mask.reshape(-1)
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


def stray(name: str, row: int, label: int, dtype: torch.dtype = torch.float32, **case: Any) -> Input:
    defaults: dict[str, Any] = {"Q": 4, "K": 9, "options": NONE}
    return Input(Case(name, **defaults | case), dtype, stray=(row, label))


def long_rows(name: str, K: int, dtype: torch.dtype = torch.float32, misaligned: int = 0, **case: Any) -> Input:
    """Of more than 4 KiB of scores: a block a row."""
    defaults: dict[str, Any] = {"Q": 2, "dense": True}
    return Input(Case(name, K=K, **defaults | case), dtype, misaligned)


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
    }
]  # fmt: skip
