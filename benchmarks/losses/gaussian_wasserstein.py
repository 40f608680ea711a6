"""Gaussian 2-Wasserstein over the batch, beside the published algorithm, written afresh: complex eigenvalues of A Aᵀ,
N × N covariances for the sake of their traces, float64, autograd through all of it.

What a step must move is small beside the decomposition of a Q × Q matrix, operations in Q³ that no count of bytes
tells of.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import row_losses
from benchmarks.losses.grade_wasserstein import dense
from benchmarks.problem import Contender, Inputs, Loss, Pair, Problem
from benchmarks.row_losses import PAPER, SMALL, inputs
from wassrank.gaussian.passes import Arguments
from wassrank.ops.gaussian_wasserstein import step_work
from wassrank.ops.work import Work

__all__ = ["CPU_PAIRS", "GPU_PROBLEMS", "contenders", "inputs", "work"]

NAME = "gaussian_wasserstein"
GPU_PROBLEMS = tuple(Problem(NAME, shape, p=2.0) for shape in (PAPER, (256, 1024), (512, 2048), (1024, 8192)))

PUBLISHED = "published algorithm"
CPU_PAIRS = (
    *(
        Pair(Problem(NAME, shape, p=2.0), PUBLISHED, goal)
        for shape, goal in ((SMALL, 1 / 5), ((256, 1024), 1 / 6), ((512, 2048), 1 / 6))
    ),
    Pair(Problem(NAME, PAPER, p=2.0), "F.cross_entropy", 25.0),
    Pair(Problem(NAME, (16, 64), p=2.0), PUBLISHED),
    Pair(Problem(NAME, (256, 1024), p=2.0), "plain torch"),
    Pair(Problem(NAME, (256, 1024), "dense", p=2.0), PUBLISHED),
    # The curve of cost (benchmarks/polar_factor.py draws it): against Q at N = 4Q, and against N at Q = 64.
    *(
        Pair(Problem(NAME, shape, p=2.0), "F.cross_entropy")
        for shape in ((16, 64), SMALL, (256, 1024), (512, 2048), (64, 1792), (64, 7168))
    ),
)


def work(problem: Problem) -> Work:
    scores = torch.empty(row_losses.scores_shape(problem), dtype=problem.torch_dtype, device="meta")
    labels = torch.empty(row_losses.labels_shape(problem), dtype=row_losses.labels_dtype(problem), device="meta")
    return step_work(Arguments(scores, labels))


def contenders(problem: Problem, device: str) -> dict[str, Contender]:
    found = row_losses.contenders(problem, device, NAME)
    found.pop("torch.compile of plain torch", None)  # the decomposition is torch's either way
    return found | {PUBLISHED: Contender(published)}


def published(problem: Problem) -> Loss:
    def loss(x: Inputs) -> Tensor:
        scores, grades = x.leaves[0], dense(x.rest[0], x.leaves[0])
        return published_distance(scores.softmax(1), grades.to(scores.dtype).softmax(1))

    return loss


def published_distance(
    P: Tensor,  # [Q, N]
    T: Tensor,  # [Q, N]
) -> Tensor:
    X, Y = P.T.double(), T.T.double()
    mean_X, mean_Y = X.mean(1, keepdim=True), Y.mean(1, keepdim=True)
    E_X, E_Y = X - mean_X, Y - mean_Y
    f = 1 / max(len(P) - 1, 1)
    covariance_X, covariance_Y = f * (E_X @ E_X.T), f * (E_Y @ E_Y.T)
    A = f * (E_X.T @ E_Y)
    eigenvalues = torch.linalg.eigvals(A @ A.T) + 1e-15  # so that the root of 0 has a finite gradient
    traces = torch.trace(covariance_X + covariance_Y) - 2 * eigenvalues.sqrt().abs().sum()
    distance: Tensor = traces + (mean_X - mean_Y).square().sum()
    return distance.to(P.dtype)
