"""InfoNCE, one positive a query, beside the cross_entropy it equals: 3·Q·N elements moved against about 6·Q·N."""

from __future__ import annotations

from benchmarks import row_losses
from benchmarks.problem import Contender, Pair, Problem
from benchmarks.row_losses import LARGE, LARGEST, MEDIUM, SMALL, inputs
from wassrank.ops.work import Work

__all__ = ["CPU_PAIRS", "GPU_PROBLEMS", "contenders", "inputs", "work"]

NAME = "info_nce"
GPU_PROBLEMS = (
    Problem(NAME, LARGEST, dtype="bfloat16"),
    Problem(NAME, SMALL),
    Problem(NAME, LARGE),
    Problem(NAME, LARGE, "dense uint8"),
)
CPU_PAIRS = (
    Pair(Problem(NAME, SMALL), "F.cross_entropy"),
    Pair(Problem(NAME, MEDIUM), "F.cross_entropy", 0.7),
)


def work(problem: Problem) -> Work:
    return row_losses.work(problem, wasserstein=0.0, info_nce=1.0)


def contenders(problem: Problem, device: str) -> dict[str, Contender]:
    return row_losses.contenders(problem, device, NAME)
