"""Grade-axis Wasserstein, level path, beside what a user would otherwise call.

Bytes of a step, forward + backward: the scores are read twice and their gradient is written once, 3·Q·N elements, and
dense labels are read twice (wassrank/ops/grade_wasserstein.py counts all of it); cross_entropy moves about 6·Q·N
(log_softmax reads and writes, its backward reads two matrices and writes one, nll_loss's writes one). Two exponentials
a score; everything else is a few operations.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from benchmarks.problem import Contender, Inputs, Loss, Pair, Problem
from wassrank import grade_wasserstein
from wassrank.backends import missing
from wassrank.ops.grade_wasserstein import step_work
from wassrank.ops.work import Work

NAME = "grade_wasserstein"
PAPER, MEDIUM, LARGE, LARGEST = (64, 448), (512, 4096), (1024, 8192), (4096, 32768)
SMALL = (64, 256)

GPU_PROBLEMS = (
    Problem(NAME, LARGEST, dtype="bfloat16"),
    Problem(NAME, SMALL),
    Problem(NAME, LARGE),
    Problem(NAME, PAPER),
    Problem(NAME, LARGEST, "dense uint8", dtype="bfloat16"),
    Problem(NAME, LARGE, dtype="bfloat16", p=2.0),
    Problem(NAME, SMALL, p=2.0),
    Problem(NAME, MEDIUM),
    Problem(NAME, LARGEST),
    Problem(NAME, LARGE, "dense"),
    Problem(NAME, LARGE, p=2.0),
    Problem(NAME, LARGE, p=1.5),
    Problem(NAME, PAPER, "dense", p=2.0),
    Problem(NAME, (16384, 64), "dense uint8"),
    Problem(NAME, (64, 65536), "dense uint8"),
    Problem(NAME, LARGE, dtype="float64"),
)

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
)


def labels_shape(problem: Problem) -> tuple[int, int]:
    Q, N = problem.shape
    return (Q, N // Q) if problem.labels == "in_batch" else (Q, N)


def labels_dtype(problem: Problem) -> torch.dtype:
    return torch.uint8 if problem.labels.endswith("uint8") else torch.int64


def inputs(problem: Problem, device: str, seed: int = 0) -> Inputs:
    """Scores [Q, N] of the normal distribution; grades 0 to 3, uniform."""
    Q, N = problem.shape
    generator = torch.Generator(device).manual_seed(seed)
    scores = torch.randn(problem.shape, generator=generator, device=device).to(problem.torch_dtype)
    grades = torch.randint(0, 4, labels_shape(problem), generator=generator, device=device)
    positives = torch.arange(Q, device=device) % N
    return Inputs((scores.requires_grad_(),), (grades.to(labels_dtype(problem)), positives))


def work(problem: Problem) -> Work:
    """What a step must move and compute at least."""
    scores = torch.empty(problem.shape, dtype=problem.torch_dtype, device="meta")
    return step_work(scores, torch.empty(labels_shape(problem), dtype=labels_dtype(problem), device="meta"))


def contenders(problem: Problem, device: str) -> dict[str, Contender]:
    """By name; those that cannot run on `device` here are left out."""
    found = {
        f"wassrank {backend}": Contender(ours(backend))
        for backend in ("native", "triton")
        if missing(backend, device) is None
    }
    found["F.cross_entropy"] = Contender(cross_entropy)
    found["plain torch"] = Contender(ours("torch"))
    found["torch.compile of plain torch"] = Contender(compiled)
    if importlib.util.find_spec("ot") is not None and problem.shape[0] * problem.shape[1] <= 2**21:
        found["ot.wasserstein_1d"] = Contender(pot, synchronises=True)
    return found


def ours(backend: str) -> Callable[[Problem], Loss]:
    def prepare(problem: Problem) -> Loss:
        return lambda x: grade_wasserstein(x.leaves[0], x.rest[0], p=problem.p, backend=backend)

    return prepare


def cross_entropy(problem: Problem) -> Loss:
    """What a step of InfoNCE costs: each row against one positive."""
    return lambda x: F.cross_entropy(x.leaves[0], x.rest[1])


def compiled(problem: Problem) -> Loss:
    @torch.compile
    def reference(scores: Tensor, grades: Tensor) -> Tensor:
        return grade_wasserstein(scores, grades, p=problem.p, backend="torch")

    return lambda x: reference(x.leaves[0], x.rest[0])


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
