"""Listwise KL beside F.kl_div of log-softmaxes, whose target distribution is made before the clock starts."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 (its name everywhere)

from benchmarks import row_losses
from benchmarks.losses.grade_wasserstein import dense
from benchmarks.problem import Contender, Inputs, Loss, Pair, Problem
from benchmarks.row_losses import LARGE, LARGEST, MEDIUM, SMALL
from wassrank.ops.work import Work

__all__ = ["CPU_PAIRS", "GPU_PROBLEMS", "contenders", "inputs", "work"]

NAME = "listwise_kl"
GPU_PROBLEMS = (
    Problem(NAME, LARGEST, dtype="bfloat16"),
    Problem(NAME, SMALL),
    Problem(NAME, LARGE),
    Problem(NAME, LARGE, "dense uint8"),
)
CPU_PAIRS = (
    Pair(Problem(NAME, SMALL), "F.kl_div"),
    Pair(Problem(NAME, MEDIUM), "F.kl_div", 1 / 4),
    Pair(Problem(NAME, MEDIUM, "dense uint8"), "F.kl_div"),
)


def inputs(problem: Problem, device: str, seed: int = 0) -> Inputs:
    """And T, [Q, N], for the rival."""
    made = row_losses.inputs(problem, device, seed)
    T = dense(made.rest[0].float(), made.leaves[0]).softmax(-1).to(problem.torch_dtype)
    return Inputs(made.leaves, (*made.rest, T))


def work(problem: Problem) -> Work:
    return row_losses.work(problem, wasserstein=0.0, kl=1.0)


def contenders(problem: Problem, device: str) -> dict[str, Contender]:
    return row_losses.contenders(problem, device, NAME) | {"F.kl_div": Contender(kl_div)}


def kl_div(problem: Problem) -> Loss:
    return lambda x: F.kl_div(F.log_softmax(x.leaves[0], -1), x.rest[3], reduction="batchmean")
