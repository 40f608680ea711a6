"""Losses from embeddings: a product of queries and passages and a loss, without the scores in between, beside what
stores them: this library's own loss, F.cross_entropy (what an in-batch step costs at least), and torch's chunked
F.linear_cross_entropy.

A step is four products of 2QNd operations, where stored scores take three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

import wassrank
from benchmarks.problem import Contender, Inputs, Loss, Pair, Problem
from wassrank.backends import missing
from wassrank.embeddings.arguments import Arguments
from wassrank.ops.level_losses_from_embeddings import step_work
from wassrank.ops.work import Work

SUFFIX = "_from_embeddings"
SHAPE = (1024, 8192, 384)
STORED, CROSS_ENTROPY, CHUNKED = "scores stored", "scores stored, F.cross_entropy", "F.linear_cross_entropy, chunked"
GOALS: Mapping[str, Mapping[str, float | None]] = {
    "grade_wasserstein": {CROSS_ENTROPY: 1.4, STORED: None},
    "info_nce": {CROSS_ENTROPY: 1.4, CHUNKED: None},
    "gaussian_wasserstein": {STORED: 1.0},
}


class FromEmbeddings:
    """`benchmarks.problem.LossBenchmark`; shapes are Q, N, d."""

    def __init__(self, loss: str) -> None:
        self.loss, name = loss, f"{loss}{SUFFIX}"
        p = 2.0 if loss == "gaussian_wasserstein" else 1.0
        self.CPU_PAIRS: Sequence[Pair] = tuple(
            Pair(Problem(name, SHAPE, p=p), rival, goal) for rival, goal in GOALS[loss].items()
        )
        gpu = ((4096, 32768, 768), "bfloat16"), ((4096, 32768, 768), "float32"), ((1024, 8192, 4096), "bfloat16")
        self.GPU_PROBLEMS: Sequence[Problem] = tuple(
            Problem(name, shape, dtype=dtype, p=p)
            for shape, dtype in (gpu if loss != "gaussian_wasserstein" else ((SHAPE, "float32"),))
        )

    def inputs(self, problem: Problem, device: str, seed: int) -> Inputs:
        """Embeddings of the normal distribution, products of variance 1; grades 0 to 3; and a positive a row."""
        generator = torch.Generator(device).manual_seed(seed)
        Q, N, d = problem.shape
        q, p = (torch.randn(n, d, generator=generator, device=device) for n in (Q, N))
        q, p = (q / d**0.5).to(problem.torch_dtype), p.to(problem.torch_dtype)
        grades = torch.randint(0, 4, (Q, N // Q), generator=generator, device=device)
        positives = torch.arange(Q, device=device) * (N // Q)
        return Inputs((q.requires_grad_(), p.requires_grad_()), (grades, positives))

    def work(self, problem: Problem) -> Work:
        Q, N, d = problem.shape
        q, p = (torch.empty(n, d, dtype=problem.torch_dtype, device="meta") for n in (Q, N))
        return step_work(Arguments(q, p, None, torch.empty(Q, N // Q, dtype=torch.int64, device="meta")))

    def contenders(self, problem: Problem, device: str) -> dict[str, Contender]:
        backends = ("native",) if device == "cpu" else ("triton",)
        found = {f"wassrank {b}": Contender(self._ours(b)) for b in backends if missing(b, device) is None}
        found["plain torch"] = Contender(self._ours("torch"))
        found[STORED] = Contender(self._stored)
        found[CROSS_ENTROPY] = Contender(cross_entropy)
        if self.loss == "info_nce" and hasattr(F, "linear_cross_entropy"):  # since torch 2.13
            found[CHUNKED] = Contender(chunked)
        return found

    def _ours(self, backend: str) -> Callable[[Problem], Loss]:
        function: Callable[..., Tensor] = getattr(wassrank, f"{self.loss}{SUFFIX}")
        return lambda problem: lambda x: function(*x.leaves, x.rest[0], backend=backend)

    def _stored(self, problem: Problem) -> Loss:
        function: Callable[..., Tensor] = getattr(wassrank, self.loss)
        return lambda x: function(x.leaves[0] @ x.leaves[1].T, x.rest[0])


def cross_entropy(problem: Problem) -> Loss:
    return lambda x: F.cross_entropy(x.leaves[0] @ x.leaves[1].T, x.rest[1])


def chunked(problem: Problem) -> Loss:
    options = torch.nn.LinearCrossEntropyOptions()
    return lambda x: F.linear_cross_entropy(x.leaves[0], x.leaves[1], x.rest[1], options=options)
