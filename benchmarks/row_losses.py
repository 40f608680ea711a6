"""What the row losses' benchmarks share: their inputs, the rivals all of them have, and what a step must move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

import wassrank
from benchmarks.problem import Contender, Inputs, Loss, Problem
from wassrank.arguments import Arguments, SortedArguments
from wassrank.backends import missing
from wassrank.ops import sorted_losses
from wassrank.ops.level_losses import step_work
from wassrank.ops.work import Work

SMALL, PAPER, MEDIUM, LARGE, LARGEST = (64, 256), (64, 448), (512, 4096), (1024, 8192), (4096, 32768)
LONGEST, MEAN = 512, 64
"""Of packed lists."""


def lengths(problem: Problem) -> Tensor:
    """Of packed lists, shape[0] of them: 1 to LONGEST, geometric, so that there are many short ones and few long."""
    generator = torch.Generator().manual_seed(7)
    return torch.empty(problem.shape[0]).geometric_(1 / MEAN, generator=generator).clamp(max=LONGEST).long()


def scores_shape(problem: Problem) -> tuple[int, ...]:
    if problem.labels == "packed":
        return (int(lengths(problem).sum()),)
    if problem.labels == "padded":
        return (problem.shape[0], int(lengths(problem).max()))
    return problem.shape


def labels_shape(problem: Problem) -> tuple[int, ...]:
    Q, N = problem.shape
    return (Q, N // Q) if problem.labels == "in_batch" else scores_shape(problem)


def labels_dtype(problem: Problem) -> torch.dtype:
    if problem.labels == "floats":
        return torch.float32
    return torch.int64 if problem.labels in ("in_batch", "dense") else torch.uint8


def inputs(problem: Problem, device: str, seed: int = 0) -> Inputs:
    """Scores of the normal distribution; grades 0 to 3, uniform, or a teacher's scores, normal too. rest: grades, a
    positive a row, and the arguments that packed and padded lists need."""
    generator = torch.Generator(device).manual_seed(seed)
    scores = torch.randn(scores_shape(problem), generator=generator, device=device).to(problem.torch_dtype)
    if problem.labels == "floats":
        grades = torch.randn(labels_shape(problem), generator=generator, device=device)
    else:
        grades = torch.randint(0, 4, labels_shape(problem), generator=generator, device=device)
    grades = grades.to(labels_dtype(problem))
    positives = torch.arange(problem.shape[0], device=device) % problem.shape[1]
    extra: dict[str, Tensor] = {}
    if problem.labels == "packed":
        extra["offsets"] = torch.cat([torch.zeros(1, dtype=torch.long), lengths(problem).cumsum(0)]).to(device)
    if problem.labels == "padded":
        extra["mask"] = torch.arange(scores.shape[1], device=device) < lengths(problem).to(device)[:, None]
    return Inputs((scores.requires_grad_(),), (grades, positives, extra))


def work(problem: Problem, **terms: Any) -> Work:
    """What a step must move and compute at least."""
    scores = torch.empty(scores_shape(problem), dtype=problem.torch_dtype, device="meta")
    labels = torch.empty(labels_shape(problem), dtype=labels_dtype(problem), device="meta")
    extra: dict[str, Tensor] = {}
    if problem.labels == "packed":
        extra["offsets"] = torch.empty(problem.shape[0] + 1, dtype=torch.long, device="meta")
    if problem.labels == "padded":
        extra["mask"] = torch.empty(scores.shape, dtype=torch.bool, device="meta")
    if problem.labels == "floats":
        order = torch.empty_like(labels, dtype=torch.int32)
        return sorted_losses.step_work(SortedArguments(scores, labels, order, p=problem.p, **terms))
    return step_work(Arguments(scores, labels, **extra, **terms))  # type: ignore[arg-type]  # by name


def contenders(problem: Problem, device: str, loss: str, **options: Any) -> dict[str, Contender]:
    """Our backends that can run on `device` here, cross_entropy on the same scores, plain torch and that compiled."""
    found = {
        f"wassrank {backend}": Contender(ours(loss, backend, **options))
        for backend in ("native", "triton")
        if missing(backend, device) is None
    }
    if problem.labels not in ("packed", "padded"):
        found["F.cross_entropy"] = Contender(cross_entropy)
    if problem.labels not in ("packed", "padded", "floats"):
        found["torch.compile of plain torch"] = Contender(compiled(loss, **options))
    found["plain torch"] = Contender(ours(loss, "torch", **options), synchronises=problem.labels == "packed")
    return found


def ours(loss: str, backend: str, **options: Any) -> Callable[[Problem], Loss]:
    function: Callable[..., Tensor] = getattr(wassrank, loss)
    return lambda problem: lambda x: function(x.leaves[0], x.rest[0], backend=backend, **x.rest[2], **options)


def cross_entropy(problem: Problem) -> Loss:
    """What a step of InfoNCE costs: each row against one positive."""
    return lambda x: F.cross_entropy(x.leaves[0], x.rest[1])


def compiled(loss: str, **options: Any) -> Callable[[Problem], Loss]:
    function: Callable[..., Tensor] = getattr(wassrank, loss)

    def prepare(problem: Problem) -> Loss:
        @torch.compile
        def reference(scores: Tensor, grades: Tensor) -> Tensor:
            return function(scores, grades, backend="torch", **options)

        return lambda x: reference(x.leaves[0], x.rest[0])

    return prepare
