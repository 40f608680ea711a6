"""What is timed: a problem, and the contenders that solve it. The same on a CPU and on a GPU.

A loss's file in benchmarks/losses gives its problems, makes their inputs and names the contenders: each of the
library's backends, and what a user would otherwise call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from wassrank.ops.work import Work


@dataclass(frozen=True)
class Problem:
    """Scores [Q, N] (or what they are made of) against labels, at one size and dtype."""

    loss: str  # a file of benchmarks/losses
    shape: tuple[int, ...]  # Q, N; from embeddings also their width
    # [Q, K] with N = Q·K; "dense": [Q, N] int64; "dense uint8": the same in bytes; "packed": Q lists of N on average,
    # one behind the other; "padded": the same lists as rows of the longest one's length; "floats": [Q, N] of a teacher
    labels: str = "in_batch"
    dtype: str = "float32"
    p: float = 1.0

    @property
    def id(self) -> str:
        return f"{self.loss} {'x'.join(map(str, self.shape))} {self.labels} {self.dtype} p={self.p:g}"

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


@dataclass(frozen=True)
class Inputs:
    """One set of inputs; `leaves` are what gradients are asked for."""

    leaves: tuple[Tensor, ...]
    rest: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Pair:
    """On the CPU: our backend against one rival, in turn."""

    problem: Problem
    rival: str
    goal: float | None = None  # our time over the rival's, at most
    contender: str = "wassrank native"
    rival_problem: Problem | None = None  # where the rival solves the same in another form


Loss = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Contender:
    """`prepare(problem)` gives the loss as a function of the inputs; what it compiles or looks up is paid for there."""

    prepare: Callable[[Problem], Loss]
    synchronises: bool = False  # waits for the device or reads from it: cannot be captured in a CUDA graph


class LossBenchmark(Protocol):
    """What a module of benchmarks/losses offers."""

    GPU_PROBLEMS: Sequence[Problem]
    """The most informative first."""
    CPU_PAIRS: Sequence[Pair]

    def inputs(self, problem: Problem, device: str, seed: int) -> Inputs: ...

    def work(self, problem: Problem) -> Work: ...

    def contenders(self, problem: Problem, device: str) -> Mapping[str, Contender]: ...


def loss_and_gradients(loss: Loss, inputs: Inputs) -> tuple[Tensor, ...]:
    """One step, forward and backward, leaving nothing behind in the inputs."""
    value = loss(inputs)
    return value.detach(), *torch.autograd.grad(value, inputs.leaves)


def training_step(loss: Loss, inputs: Inputs) -> None:
    """One step as a training loop has it: gradients end in `.grad`."""
    for leaf in inputs.leaves:
        leaf.grad = None
    loss(inputs).backward()
