"""What only a GPU can show, for each fused backend: capture in a CUDA graph, no wait for the device, torch.compile,
streams, and more scores than 2^31. Everything here waits for `make gpu`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import wassrank

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("backend", ["native", "triton"])]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"p": 2.0, "reduction": "none"},
    {"p": 1.5, "in_batch": None, "target": "exp2"},
    {"masked": True, "weighted": True},
    {"dense": True, "num_levels": 20},
    {"loss": "combined_loss", "info_nce": 0.5, "kl": 0.5},
    {"loss": "info_nce", "negative_grade": 1, "masked": True},
    {"loss": "listwise_kl", "packed": True, "target": "exp2"},
    {"packed": True, "position": [0.0, 1.0, 3.0, 7.0], "num_levels": 4},
    {"floats": True},
    {"floats": True, "dense": True, "p": 2.0, "masked": True},
    {"floats": True, "packed": True, "p": 2.0, "loss": "combined_loss", "info_nce": 0.5, "kl": 0.5},
    {"loss": "gaussian_wasserstein"},
    {"loss": "gaussian_wasserstein", "impossible": True},
    {"loss": "gaussian_wasserstein", "in_batch": None, "masked": True, "target": "exp2"},
    {"loss": "gaussian_wasserstein", "dense": True, "floats": True},
    {"loss": "gaussian_wasserstein", "covariance": "diagonal", "masked": True},
]


def problem(options: dict[str, Any], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Scores [64, 512] or packed [9000], labels and the loss's arguments."""
    left = dict(options)
    if left.pop("packed", False):
        offsets = torch.tensor([0, 1, 1, 700, 704, 9000], device="cuda")
        left["offsets"], shape, labels_shape = offsets, (9000,), (9000,)
    else:
        shape, labels_shape = (64, 512), (64, 512 if left.pop("dense", False) else 8)  # type: ignore[assignment]
    scores = torch.randn(shape, device="cuda", dtype=dtype).requires_grad_()
    if left.pop("impossible", False):
        with torch.no_grad():
            scores[5, 100] = -torch.inf
    labels = torch.randint(0, 4, labels_shape, device="cuda")
    if left.pop("floats", False):
        labels = torch.randn(labels_shape, device="cuda")
    if left.pop("masked", False):
        left["mask"] = torch.rand(labels_shape, device="cuda") < 0.8
    if left.pop("weighted", False):
        left["weight"] = torch.rand(64, device="cuda")
    return scores, labels, left


def step(scores: Tensor, labels: Tensor, backend: str, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    arguments = dict(options)
    function = getattr(wassrank, arguments.pop("loss", "grade_wasserstein"))
    loss = function(scores, labels, backend=backend, **arguments)
    return loss.detach(), torch.autograd.grad(loss, scores, torch.ones_like(loss))[0]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_can_be_captured_in_a_cuda_graph(backend: str, options: dict[str, Any]) -> None:
    scores, labels, options = problem(options)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(scores, labels, backend, options)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(scores, labels, backend, options)
    with torch.no_grad():
        scores.copy_(torch.randn_like(scores))
    graph.replay()
    for got, want in zip(captured, step(scores, labels, backend, options), strict=True):
        assert torch.equal(got, want)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Any wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_waits_for_nothing(backend: str, options: dict[str, Any], request: pytest.FixtureRequest) -> None:
    scores, labels, options = problem(options)
    step(scores, labels, backend, options)  # the first one compiles, and brings `position` to the device
    torch.cuda.synchronize()
    request.getfixturevalue("no_waiting")
    step(scores, labels, backend, options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_two_runs_give_the_same_bits(backend: str, options: dict[str, Any]) -> None:
    scores, labels, options = problem(options, torch.bfloat16)
    first = step(scores, labels, backend, options)
    for _ in range(5):
        for got, want in zip(step(scores, labels, backend, options), first, strict=True):
            assert torch.equal(got, want)


def test_compiles_without_a_graph_break_and_gives_the_same(backend: str) -> None:
    scores, labels, _ = problem({})

    def loss(s: Tensor) -> Tensor:
        return wassrank.grade_wasserstein(2 * s, labels, p=2.0, backend=backend).exp()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True)
    (want,) = torch.autograd.grad(loss(scores), scores)
    (got,) = torch.autograd.grad(compiled(scores), scores)
    torch.testing.assert_close(got, want)


def test_work_is_queued_on_the_current_stream(backend: str) -> None:
    scores, labels, options = problem({})
    want = step(scores, labels, backend, options)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # whoever does not wait for this reads the scores too early
        fresh = torch.empty_like(scores).copy_(scores.detach()).requires_grad_()
        got = step(fresh, labels, backend, options)
    stream.synchronize()
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


def test_more_scores_than_two_to_the_31st(backend: str) -> None:
    Q, N = 66_000, 33_000  # 2.2e9 scores: 4.4 GB of them, as much of gradient, 2.2 GB of labels
    scores = torch.randn(Q, N, device="cuda", dtype=torch.bfloat16).requires_grad_()
    labels = torch.randint(0, 4, (Q, N), device="cuda", dtype=torch.int8)
    losses, gradient = step(scores, labels, backend, {"reduction": "none"})
    last = scores[-3:].detach().requires_grad_()
    want_losses, want_gradient = step(last, labels[-3:], "torch", {"reduction": "none"})
    torch.testing.assert_close(losses[-3:], want_losses, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient[-3:], want_gradient)
