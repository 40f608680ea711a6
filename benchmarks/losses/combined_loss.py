"""Grade-axis Wasserstein + KL + InfoNCE in one pass, beside the same sum taken loss by loss."""

from __future__ import annotations

import wassrank
from benchmarks import row_losses
from benchmarks.problem import Contender, Loss, Pair, Problem
from benchmarks.row_losses import LARGE, LARGEST, MEDIUM, SMALL, inputs
from wassrank.ops.work import Work

__all__ = ["CPU_PAIRS", "GPU_PROBLEMS", "contenders", "inputs", "work"]

NAME = "combined_loss"
FACTORS = {"wasserstein": 1.0, "info_nce": 0.5, "kl": 0.1}
GPU_PROBLEMS = (
    Problem(NAME, LARGEST, dtype="bfloat16"),
    Problem(NAME, SMALL),
    Problem(NAME, LARGE),
)
CPU_PAIRS = (
    Pair(Problem(NAME, SMALL), "loss by loss"),
    Pair(Problem(NAME, MEDIUM), "loss by loss"),
    Pair(Problem(NAME, MEDIUM), "F.cross_entropy"),
)


def work(problem: Problem) -> Work:
    return row_losses.work(problem, **FACTORS)


def contenders(problem: Problem, device: str) -> dict[str, Contender]:
    found = row_losses.contenders(problem, device, NAME, p=problem.p, target="softmax", **FACTORS)
    return found | {"loss by loss": Contender(loss_by_loss)}


def loss_by_loss(problem: Problem) -> Loss:
    return lambda x: (
        FACTORS["wasserstein"] * wassrank.grade_wasserstein(x.leaves[0], x.rest[0], p=problem.p, target="softmax")
        + FACTORS["info_nce"] * wassrank.info_nce(x.leaves[0], x.rest[0])
        + FACTORS["kl"] * wassrank.listwise_kl(x.leaves[0], x.rest[0])
    )
