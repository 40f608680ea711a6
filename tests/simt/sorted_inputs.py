"""What the CUDA kernels of the sorted path are run on: the conformance table's float labels in every dtype, and what
that table does not reach in them.

The latter are the ways rows are divided among threads and lines of points among memories, rows that are not aligned,
others' points between, below and above a row's own, and labels that are no number.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from cases import SORTED_CASES as CASES
from cases import Case
from test_conformance import DTYPES
from torch import Tensor

from .inputs import NONE, Input, _all_impossible, _first_impossible_second_not_a_number, _rising, stray


def floats(name: str, dtype: torch.dtype = torch.float32, misaligned: int = 0, **case: Any) -> Input:
    """Float labels; `p` and the losses' factors among the arguments are the loss's options."""
    options = {key: case.pop(key) for key in ("p", "in_batch", "wasserstein", "info_nce", "kl") if key in case}
    loss = "combined_loss" if options.keys() & {"info_nce", "kl"} else "grade_wasserstein"
    defaults: dict[str, Any] = {"Q": 2, "dense": True, "label_dtype": torch.float32}
    case = defaults | case
    return Input(
        Case(f"{name}, floats", loss, **case | {"options": options | case.get("options", {})}), dtype, misaligned
    )


def _whole_labels(scores: Tensor, labels: Tensor) -> None:
    labels.round_()


def _three_times_labels(scores: Tensor, labels: Tensor) -> None:
    """At temperature 3: P is T, but for how the exponents are rounded."""
    scores.copy_(3 * labels)


def _own_nowhere(scores: Tensor, labels: Tensor) -> None:
    """In a batch: own passages that take no part, at places that would disturb the order or the line's ends."""
    Q, K = labels.shape
    for query, label in enumerate([torch.nan, torch.inf, -torch.inf, 1e30, -1e30][:Q]):
        scores[query, query * K + 2] = -torch.inf
        labels[query, 2] = label


ALL: dict[str, Any] = {"wasserstein": 0.5, "info_nce": 1.0, "kl": 0.75}
STRAY: dict[str, Any] = {"label_dtype": torch.float32, "loss": "combined_loss", "options": ALL | NONE}
UNEVEN = (10, 10, 10, 185, 10)  # the long one has a point more than its warp's shared memory holds
MIXED = (1500, 0, 3, 6001)  # a block's; the longest is kept in the workspace
ONE_LONG = (*[3] * 20, 6001, *[5] * 30)  # a warp's

SORTED_OWN = [
    floats("misaligned", torch.float32, 1, K=11, Q=3),
    floats("misaligned", torch.float64, 1, K=7, Q=3, target="exp2", p=2.0),
    floats("misaligned", torch.float16, 3, K=40, Q=3, mask="scores", **ALL),
    floats("misaligned", torch.bfloat16, 5, K=33, Q=3, dense=False, target="given", mask="labels", **ALL),
    floats("1 to 40", packed=tuple(range(41))),
    floats("1 to 40, p=2", torch.float64, 1, packed=tuple(range(41)), p=2.0, **ALL),
    floats("around a round", packed=(62, 63, 64, 65, 66, 126, 127, 128, 129), p=1.5),
    replace(floats("small blocks", packed=(62, 63, 64, 65, 66, 126, 127, 128, 129)), tuning={"warp_slots": 1}),
    floats("a warp's most", K=255, p=2.0),
    replace(floats("a warp's most", torch.float64, Q=9, K=255, p=2.0), tuning={"short_row_threads": 512}),
    floats("a block's least", K=256, weight=True),
    floats("block rows, odd", torch.float32, 3, K=701, Q=3, mask="scores", p=2.0),
    floats("block rows, position", torch.float64, 1, K=513, position=True, p=1.5, target="linear"),
    floats("block rows, given", torch.bfloat16, K=1050, target="given", positives=True, **ALL),
    floats("block rows, in-batch", torch.float16, K=300, dense=False, in_batch=0.25, target="given", p=2.0, **ALL),
    floats("block rows, empty", K=650, Q=3, edit=_first_impossible_second_not_a_number, options=NONE, **ALL),
    floats("workspace", K=6200, Q=3, mask="scores"),
    floats("workspace, p=2", torch.bfloat16, K=2000, Q=3, p=2.0, **ALL),
    floats("workspace, p=1.5", torch.float64, K=1700, p=1.5, options=NONE),
    floats("packed, uneven", packed=UNEVEN),
    floats("packed, mixed", packed=MIXED, mask="labels", p=2.0),
    floats("packed, mixed, all losses", torch.float16, packed=MIXED, positives=True, weight=True, options=NONE, **ALL),
    floats("packed, one long", torch.bfloat16, packed=ONE_LONG, p=2.0, **ALL),
    floats("packed, one long, p=1", packed=ONE_LONG, target="given", weight=True),
    floats("ties", K=60, Q=4, edit=_whole_labels, p=2.0),
    floats("nearly equal", K=60, edit=_three_times_labels, options={"temperature": 3.0}, p=2.0),
    floats("nearly equal, p=1", K=60, edit=_three_times_labels, options={"temperature": 3.0}),
    floats("others below", Q=5, K=6, dense=False, in_batch=-1e3, mask="labels", p=2.0),
    floats("others above", Q=5, K=6, dense=False, in_batch=1e3, mask="scores", target="linear", p=1.5),
    floats("own nowhere", Q=5, K=6, dense=False, edit=_own_nowhere, in_batch=0.25, **ALL),
    floats("own nowhere, others above", Q=5, K=6, dense=False, edit=_own_nowhere, in_batch=9.0, p=2.0),
    floats("rising, in-batch", Q=5, K=160, dense=False, edit=_rising, options={"temperature": 0.02}, **ALL),
    floats("nothing but empty rows", Q=3, K=5, edit=_all_impossible, weight=True, **ALL),
    floats("no query, unreduced", Q=0, K=5, dense=False, options=NONE),
    stray("stray, floats", 1, torch.nan, label_dtype=torch.float32, dense=True),
    stray("stray, in-batch floats", 2, torch.inf, torch.float16, label_dtype=torch.float32),
    stray("stray, mean of floats", 0, -torch.inf, label_dtype=torch.float32, options={"p": 2.0}),
    stray("stray, packed floats", 1, torch.nan, packed=(7, 9, 4), **STRAY),
    stray("stray, block of floats", 1, torch.nan, K=600, dense=True, **STRAY),
]  # fmt: skip

SORTED_CONFORMANCE = [Input(case, dtype) for case in CASES for dtype in DTYPES]
SORTED = [*SORTED_OWN, *SORTED_CONFORMANCE]
