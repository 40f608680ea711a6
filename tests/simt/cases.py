"""What the CUDA kernels are run on: small inputs for every path through them, and what should come out.

Beyond what tests/cases.py asks of all backends: how rows are divided among threads, what is not aligned, and labels
that are no grade.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wassrank import reference
from wassrank.reference.grade_wasserstein import compute_dtype
from wassrank.reference.rows import dense_grades, dense_mask


@dataclass(frozen=True)
class Case:
    """What the kernels are given. Passages are in-batch, N = Q·own, unless `dense`."""

    name: str
    Q: int = 3
    own: int = 5  # K
    dense: bool = False
    in_batch: int | None = 0
    dtype: torch.dtype = torch.float32
    label_dtype: torch.dtype = torch.int64
    levels: int = 4
    target: str = "softmax"  # or "given" for all passages, "given own" for the query's own
    p: float = 1.0
    temperature: float = 0.7
    label_temperature: float = 1.3
    mask: str = ""  # "full" [Q, N] or "column" [N]
    weight: bool = False
    reduction: str = "mean"
    scores: str = "normal"  # "rising", "wide", "labels" or "large"
    labels: str = "random"  # or "zero"
    misaligned: int = 0  # elements between a 16-byte boundary and the first score
    impossible: bool = True  # a score of -inf in each row
    empty_rows: tuple[int, ...] = ()  # all scores -inf
    nan_rows: tuple[int, ...] = ()  # a NaN or +inf score
    stray_rows: tuple[int, ...] = ()  # a label that is no grade
    stray: int = 99
    stray_masked: bool = False  # such labels where the mask leaves passages out

    @property
    def num_passages(self) -> int:
        return self.own if self.dense else self.Q * self.own

    def __str__(self) -> str:
        return self.name


def block_rows(name: str, own: int, dtype: torch.dtype = torch.float32, **options: object) -> Case:
    """Rows longer than one warp takes: 4 KiB of scores."""
    return replace(Case(name, Q=2, own=own, dense=True, dtype=dtype), **options)  # type: ignore[arg-type]


CASES = [
    Case("one passage in all", Q=1, own=1, dense=True, impossible=False),
    Case("one passage a query", Q=4, own=1, impossible=False),
    Case("no passages", own=0),
    Case("no queries", Q=0),
    Case("no queries, dense, sum", Q=0, dense=True, reduction="sum"),
    Case("no queries, unreduced", Q=0, reduction="none"),
    Case("in-batch", Q=4, own=6),
    Case("in-batch, own passages at odd places", Q=7, own=9, in_batch=2),
    Case("in-batch, float64", own=7, dtype=torch.float64, weight=True, reduction="none"),
    Case("in-batch, float16", own=11, dtype=torch.float16, reduction="sum"),
    Case("in-batch, bfloat16", own=11, dtype=torch.bfloat16, mask="column", weight=True),
    Case("excluded", Q=4, own=6, in_batch=None, weight=True),
    Case("excluded, float16, masked", own=13, in_batch=None, dtype=torch.float16, mask="full"),
    Case("excluded, given own", own=9, in_batch=None, target="given own", mask="column"),
    Case("dense, int32 labels", own=64, dense=True, label_dtype=torch.int32),
    Case("dense, int16 labels", own=33, dense=True, label_dtype=torch.int16, misaligned=1),
    Case("dense, int8 labels, odd", own=37, dense=True, label_dtype=torch.int8, mask="full"),
    Case("dense, uint8 labels, misaligned", own=40, dense=True, label_dtype=torch.uint8, misaligned=3, mask="full"),
    Case("dense, float64, misaligned", own=19, dense=True, dtype=torch.float64, misaligned=1, target="exp2"),
    Case("dense, float16, odd", own=101, dense=True, dtype=torch.float16, label_dtype=torch.int8),
    Case("dense, bfloat16, misaligned", own=96, dense=True, dtype=torch.bfloat16, misaligned=5),
    Case("linear target", own=8, target="linear"),
    Case("exp2 target", own=8, target="exp2", levels=8),
    Case("given target", own=10, target="given", mask="full"),
    Case("given target, bfloat16", own=10, target="given", dtype=torch.bfloat16),
    Case("given own target", own=10, target="given own", in_batch=1),
    Case("given target, dense", own=50, dense=True, target="given", reduction="none"),
    Case("p = 2", own=12, p=2.0, levels=6),
    Case("p = 1.5", own=12, p=1.5, levels=7, target="exp2"),
    Case("p = 2, dense, float64", own=60, dense=True, p=2.0, levels=9, dtype=torch.float64),
    Case("one level", own=6, levels=1, in_batch=0),
    Case("32 levels", own=70, dense=True, levels=32, p=3.0, label_dtype=torch.uint8),
    Case("32 levels, float64", own=30, levels=32, in_batch=31, dtype=torch.float64, p=1.5),
    Case("rising scores", Q=2, own=400, dense=True, scores="rising", temperature=0.02),
    Case("rising scores, in-batch", Q=5, own=160, scores="rising", temperature=0.02),
    Case("wide scores, cold", own=40, dense=True, scores="wide", temperature=1e-3),
    Case("cold, tiny differences", own=40, dense=True, scores="large", temperature=1e-3),
    Case("hot", own=40, dense=True, temperature=1e3, levels=6),
    Case("scores are the labels", Q=4, own=9, dense=True, scores="labels", temperature=1.3, impossible=False),
    Case("scores are the labels, p = 2", own=9, dense=True, scores="labels", temperature=1.3, impossible=False, p=2.0),
    Case("targets without mass", own=9, dense=True, target="linear", labels="zero", scores="large", temperature=1.0),
    Case("empty rows", Q=5, own=8, dense=True, empty_rows=(1, 4), reduction="none", weight=True),
    Case("empty rows, mean", Q=5, own=8, dense=True, empty_rows=(0, 2), weight=True),
    Case("nothing but empty rows", own=4, empty_rows=(0, 1, 2)),
    Case("NaN rows", Q=4, own=6, nan_rows=(0, 3), mask="column", reduction="none"),
    Case("NaN rows, dense, float16", Q=4, own=40, dense=True, nan_rows=(1, 2), dtype=torch.float16, reduction="none"),
    Case("NaN rows, excluded", Q=3, own=20, in_batch=None, nan_rows=(1,), reduction="none"),
    Case("NaN rows, mean", nan_rows=(1,)),
    Case("stray labels", Q=4, own=20, dense=True, stray_rows=(1, 3), reduction="none"),
    Case("negative labels", own=9, stray_rows=(0,), stray=-1, label_dtype=torch.int8, reduction="none"),
    Case("the first label beyond", own=9, stray_rows=(2,), stray=4, label_dtype=torch.int16, reduction="none"),
    Case("labels that would wrap to 0", own=9, stray_rows=(0,), stray=2**32, reduction="none", target="given"),
    Case("stray labels, 32 levels", own=9, stray_rows=(0,), stray=32, levels=32, reduction="none"),
    Case("stray labels in empty rows", stray_rows=(0, 2), stray=-7, target="linear", labels="zero", reduction="none"),
    Case("stray labels, masked", own=9, stray_masked=True, mask="column", levels=3),
    Case("float16, int16 labels", own=65, dense=True, dtype=torch.float16, label_dtype=torch.int16, p=2.0),
    Case("bfloat16, int32 labels, masked", own=67, dtype=torch.bfloat16, label_dtype=torch.int32, mask="full"),
    Case("float64, uint8 labels", own=23, dtype=torch.float64, label_dtype=torch.uint8, mask="column"),
    block_rows("block rows", 1100),
    block_rows("block rows, odd", 1101, misaligned=2, label_dtype=torch.int32, mask="full", p=2.0),
    block_rows("block rows, float64, 32 levels", 521, torch.float64, levels=32, misaligned=1, reduction="sum"),
    block_rows("block rows, float16", 2203, torch.float16, label_dtype=torch.uint8, levels=8, target="exp2"),
    block_rows("block rows, bfloat16, given", 2100, torch.bfloat16, target="given", weight=True),
    block_rows("block rows, in-batch", 777, dense=False, mask="column", target="given"),
    block_rows("block rows, in-batch, bfloat16", 1300, torch.bfloat16, dense=False, reduction="none"),
    block_rows("block rows, excluded", 1200, dense=False, in_batch=None),
    block_rows("block rows, rising", 3000, scores="rising", temperature=0.05, label_dtype=torch.int8),
    block_rows("block rows, empty and NaN", 1200, Q=3, empty_rows=(0,), nan_rows=(1,), reduction="none"),
    block_rows("block rows, stray", 1200, stray_rows=(1,), reduction="none"),
]  # fmt: skip

# ThreadSanitizer is ten times slower than the rest: the ways the kernels share memory, once each.
RACES = {
    "in-batch, bfloat16",
    "p = 1.5",
    "given target, dense",
    "block rows, in-batch",
    "block rows, float64, 32 levels",
}
RACE_CASES = [case for case in CASES if case.name in RACES]


@dataclass(frozen=True)
class Arrays:
    scores: Tensor
    labels: Tensor
    mask: Tensor | None
    target: Tensor | None
    weight: Tensor | None
    grad_loss: Tensor


def arrays(case: Case) -> Arrays:
    generator = torch.Generator().manual_seed(sum(case.name.encode()))
    Q, N, K = case.Q, case.num_passages, case.own
    C = compute_dtype(case.dtype)
    labels = torch.randint(0, case.levels, (Q, K), generator=generator)
    if case.labels == "zero":
        labels.zero_()
    scores = torch.randn(Q, N, generator=generator, dtype=torch.float64)
    if case.scores == "rising":
        scores = torch.linspace(-3, 3, N, dtype=torch.float64) + 0.1 * scores
    elif case.scores == "wide":
        scores = 1e4 * scores
    elif case.scores == "labels":
        scores = labels.double()
    elif case.scores == "large":
        scores = 300 + 1e-3 * scores
    mask = target = weight = None
    if case.mask:
        mask = torch.rand((Q, N) if case.mask == "full" else (Q, K), generator=generator) < 0.7
    if case.impossible:
        for row in range(Q if N else 0):
            scores[row, (7 * row + 2) % N] = -torch.inf
    if case.target.startswith("given"):
        target = torch.rand((Q, N) if case.target == "given" else (Q, K), generator=generator, dtype=C)
    if case.weight:
        weight = torch.rand(Q, generator=generator, dtype=C) + 0.5
    for row in case.empty_rows:
        scores[row] = -torch.inf
    real = torch.ones(Q, N, dtype=torch.bool) if mask is None else dense_mask(mask, scores.shape).clone()
    for row in (*case.nan_rows, *case.stray_rows):
        column = K // 2 + (0 if case.dense else row * K)
        assert real[row, column]
        scores[row, column] = 0.0 if row in case.stray_rows else torch.inf if row % 2 else torch.nan
    for row in case.stray_rows:
        labels[row, K // 2] = case.stray
    if case.stray_masked:
        assert mask is not None
        labels[~mask] = case.stray
    grad_loss = torch.randn((Q,) if case.reduction == "none" else (), generator=generator, dtype=C)
    return Arrays(scores.to(case.dtype), labels.to(case.label_dtype), mask, target, weight, grad_loss)


def taking_part(case: Case) -> Tensor:  # [Q, N] bool
    given = arrays(case)
    _, real = dense_grades(given.labels, case.num_passages, case.in_batch)
    if given.mask is not None:
        real = real & dense_mask(given.mask, given.scores.shape)
    return real & (given.scores != -torch.inf)


def expected(case: Case) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the reference in float64, which refuses labels that are no grade: their rows are NaN."""
    given = arrays(case)
    stray = list(case.stray_rows)
    labels = given.labels.long()
    labels[stray] = 0
    scores = given.scores.double().requires_grad_()
    loss = reference.grade_wasserstein(
        scores,
        labels,
        p=case.p,
        temperature=case.temperature,
        label_temperature=case.label_temperature,
        target=case.target if given.target is None else given.target.double(),
        mask=given.mask,
        weight=None if given.weight is None else given.weight.double(),
        in_batch=case.in_batch,
        num_levels=case.levels,
        reduction=case.reduction,
    )
    loss.backward(given.grad_loss.double())
    assert scores.grad is not None
    loss, gradient = loss.detach(), scores.grad
    if stray:
        loss[stray] = torch.nan
        gradient[stray] = torch.nan
    return loss, torch.where(taking_part(case), gradient, 0.0)
