"""Grade-axis Wasserstein, beside what a user would otherwise call.

Bytes of a step, forward + backward: the scores are read twice and their gradient is written once, 3·Q·N elements, and
dense labels are read twice (wassrank/ops/level_losses.py counts all of it); cross_entropy moves about 6·Q·N
(log_softmax reads and writes, its backward reads two matrices and writes one, nll_loss's writes one). Two exponentials
a score; everything else is a few operations.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from benchmarks import row_losses
from benchmarks.problem import Contender, Inputs, Loss, Pair, Problem
from benchmarks.row_losses import LARGE, LARGEST, MEDIUM, PAPER, SMALL, inputs
from wassrank.ops.work import Work

__all__ = ["CPU_PAIRS", "GPU_PROBLEMS", "contenders", "inputs", "work"]

NAME = "grade_wasserstein"
SQUARE, LONG = (1024, 1024), (64, 16384)
"""Of float labels, a teacher's scores."""

GPU_PROBLEMS = (
    Problem(NAME, LARGEST, dtype="bfloat16"),
    Problem(NAME, SMALL),
    Problem(NAME, LARGE),
    Problem(NAME, PAPER),
    Problem(NAME, LARGEST, "dense uint8", dtype="bfloat16"),
    Problem(NAME, LARGE, dtype="bfloat16", p=2.0),
    Problem(NAME, SMALL, p=2.0),
    Problem(NAME, (8192, row_losses.MEAN), "packed"),
    Problem(NAME, (8192, row_losses.MEAN), "padded"),
    Problem(NAME, MEDIUM),
    Problem(NAME, LARGEST),
    Problem(NAME, LARGE, "dense"),
    Problem(NAME, LARGE, p=2.0),
    Problem(NAME, LARGE, p=1.5),
    Problem(NAME, PAPER, "dense", p=2.0),
    Problem(NAME, (16384, 64), "dense uint8"),
    Problem(NAME, (64, 65536), "dense uint8"),
    Problem(NAME, LARGE, dtype="float64"),
    Problem(NAME, SQUARE, "floats"),
    Problem(NAME, LONG, "floats"),
    Problem(NAME, LONG, "floats", p=2.0),
)

PACKED = (2048, row_losses.MEAN)
CPU_PAIRS = (
    *(
        Pair(Problem(NAME, shape, labels, p=p), "F.cross_entropy", goal if labels == "in_batch" else None)
        for labels in ("in_batch", "dense uint8", "dense")
        for p in (1.0, 2.0)
        for shape, goal in ((SMALL, 1.5), (MEDIUM, 0.8))
    ),
    Pair(Problem(NAME, MEDIUM, dtype="bfloat16"), "F.cross_entropy"),
    Pair(Problem(NAME, MEDIUM, dtype="float16"), "F.cross_entropy"),
    Pair(Problem(NAME, MEDIUM), "plain torch", 1 / 5),
    Pair(Problem(NAME, MEDIUM), "torch.compile of plain torch"),
    Pair(Problem(NAME, SMALL, "dense"), "ot.wasserstein_1d"),
    *(
        Pair(Problem(NAME, shape, "floats", p=p), rival, goal)
        for shape in (SQUARE, LONG)
        for p, rival, goal in (
            (1.0, "sort and cumsum", 1 / 4),
            (1.0, "ot.wasserstein_1d", 1 / 30),
            (2.0, "ot.wasserstein_1d", None),
        )
    ),
    Pair(Problem(NAME, PACKED, "packed"), "wassrank native", 1 / 3, rival_problem=Problem(NAME, PACKED, "padded")),
)


def work(problem: Problem) -> Work:
    return row_losses.work(problem)


def contenders(problem: Problem, device: str) -> dict[str, Contender]:
    """By name; those that cannot run on `device` here are left out."""
    found = row_losses.contenders(problem, device, NAME, p=problem.p, target="softmax")
    if problem.labels == "floats" and problem.p == 1:
        found["sort and cumsum"] = Contender(sort_and_cumsum)
    small = problem.shape[0] * problem.shape[1] <= 2**21 and problem.labels not in ("packed", "padded")
    if importlib.util.find_spec("ot") is not None and small:
        found["ot.wasserstein_1d"] = Contender(pot, synchronises=True)
    return found


def sort_and_cumsum(problem: Problem) -> Loss:
    """What a user would write for W_1 along float labels: the row-major sort is the fastest torch has."""

    def loss(x: Inputs) -> Tensor:
        scores, labels = x.leaves[0], x.rest[0].to(x.leaves[0].dtype)
        points, order = labels.sort(-1)
        gap: Tensor = (scores.softmax(-1) - labels.softmax(-1)).gather(-1, order).cumsum(-1)[:, :-1]
        distances: Tensor = (gap.abs() * points.diff(dim=-1)).sum(-1)
        return distances.mean()

    return loss


def pot(problem: Problem) -> Loss:
    """POT's 1-D solver on the passages themselves: grades as points, P and T as weights, one column a query."""
    import ot

    def loss(x: Inputs) -> Tensor:
        scores, grades = x.leaves[0], dense(x.rest[0], x.leaves[0])
        points = grades.T.to(scores.dtype).contiguous()
        P, T = scores.softmax(-1).T, grades.to(scores.dtype).softmax(-1).T
        distances: Tensor = ot.wasserstein_1d(points, points, P, T, p=problem.p)
        return distances.mean()

    return loss


def dense(grades: Tensor, scores: Tensor) -> Tensor:
    """Grades of every score: other queries' passages have grade 0."""
    Q, N = scores.shape
    if grades.shape == scores.shape:
        return grades
    K = grades.shape[1]
    return (torch.eye(Q, dtype=grades.dtype, device=grades.device)[:, :, None] * grades[:, None, :]).reshape(Q, Q * K)
