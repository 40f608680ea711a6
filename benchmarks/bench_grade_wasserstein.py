"""Grade-axis Wasserstein, level path: a step's loss, forward + backward, beside what a user would otherwise call.

Bytes (float32, in-batch): the scores are read twice and their gradient is written once, 3·4·Q·N; cross_entropy
moves about 6·4·Q·N (log_softmax reads and writes, its backward reads two matrices and writes one, nll_loss's writes
one). With dense labels each pass reads them too: + 2·Q·N·(bytes a label). Two exponentials a score; everything else is
a few operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ot
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from wassrank import grade_wasserstein

SMALL, LARGE = (64, 256), (512, 4096)


def scores_of(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()


def labels_of(shape: tuple[int, int], kind: str) -> Tensor:
    """ "in_batch": [Q, K] with N = Q·K; "dense": [Q, N] int64; "dense uint8": the same in bytes."""
    Q, N = shape
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (Q, N // Q if kind == "in_batch" else N), generator=generator)
    return labels.to(torch.uint8) if kind.endswith("uint8") else labels


def step(scores: Tensor, loss: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    def run() -> None:
        scores.grad = None
        loss(scores).backward()

    return run


def cross_entropy(scores: Tensor) -> Callable[[], None]:
    positives = torch.arange(scores.shape[0])
    return step(scores, lambda s: F.cross_entropy(s, positives))


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("labels", ["in_batch", "dense uint8", "dense"])
def test_against_cross_entropy(paired: Any, benchmark: Any, shape: tuple[int, int], p: float, labels: str) -> None:
    scores, grades = scores_of(shape), labels_of(shape, labels)
    benchmark.extra_info["claim"] = {"rival": "F.cross_entropy", "labels": labels, "p": p, "shape": shape}
    if labels == "in_batch":
        benchmark.extra_info["goal"] = 1.5 if shape == SMALL else 0.8
    run = step(scores, lambda s: grade_wasserstein(s, grades, p=p))
    benchmark.extra_info["extra_memory"] = extra_memory(run, scores)
    paired(run, cross_entropy(scores))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_against_cross_entropy(paired: Any, benchmark: Any, dtype: torch.dtype) -> None:
    scores, grades = scores_of(LARGE, dtype), labels_of(LARGE, "in_batch")
    name = str(dtype).removeprefix("torch.")
    benchmark.extra_info["claim"] = {
        "rival": f"F.cross_entropy, {name}",
        "labels": "in_batch",
        "p": 1.0,
        "shape": LARGE,
    }
    paired(step(scores, lambda s: grade_wasserstein(s, grades)), cross_entropy(scores))


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_against_plain_torch(paired: Any, benchmark: Any, compiled: bool) -> None:
    scores, grades = scores_of(LARGE), labels_of(LARGE, "in_batch")

    def reference(s: Tensor) -> Tensor:
        return grade_wasserstein(s, grades, backend="torch")

    rival = torch.compile(reference) if compiled else reference
    name = "torch.compile of the reference" if compiled else "the plain-torch reference"
    benchmark.extra_info["claim"] = {"rival": name, "labels": "in_batch", "p": 1.0, "shape": LARGE}
    if not compiled:
        benchmark.extra_info["goal"] = 1 / 5
    paired(step(scores, lambda s: grade_wasserstein(s, grades)), step(scores, rival))


def test_against_pot(paired: Any, benchmark: Any) -> None:
    """POT's 1-D solver on the passages themselves: grades as points, P and T as weights, one column a query."""
    scores, grades = scores_of(SMALL), labels_of(SMALL, "dense")
    points = grades.T.float().contiguous()

    def pot(s: Tensor) -> Tensor:
        P, T = s.softmax(-1).T, grades.float().softmax(-1).T
        distances: Tensor = ot.wasserstein_1d(points, points, P, T, p=1)
        return distances.mean()

    torch.testing.assert_close(pot(scores), grade_wasserstein(scores, grades), rtol=1e-4, atol=1e-6)
    benchmark.extra_info["claim"] = {"rival": "ot.wasserstein_1d", "labels": "dense", "p": 1.0, "shape": SMALL}
    paired(step(scores, lambda s: grade_wasserstein(s, grades)), step(scores, pot))


def extra_memory(run: Callable[[], None], scores: Tensor) -> float:
    """Bytes torch allocated in one step beyond the gradient, as a share of the scores' bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        run()
    allocated = float(sum(max(0, e.self_cpu_memory_usage) for e in trace.key_averages()))
    return (allocated - scores.nbytes) / scores.nbytes
