"""`wasserstein_1d` where only a GPU can show it: against plain torch, capture in a CUDA graph, no wait for the device,
the current stream. Everything here waits for `make gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import wassrank

wasserstein_1d: Any = wassrank.wasserstein_1d  # tests unpack lists into its first arguments
pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("backend", ["native"])]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"n": 7, "m": 300, "p": 1.0},
    {"n": 64, "m": 64, "rows": 1000, "p": 1.5},
    {"n": 256, "m": 256, "weighted": False},
    {"n": 200, "m": 300, "weighted": False, "masked": True},
    {"n": 1024, "m": 1024, "p": 2.0, "masked": True},
    {"n": 5000, "m": 7000, "p": 2.0},
    {"n": 20_000, "m": 3, "p": 1.0, "masked": True},
    {"n": 8192, "m": 8193, "weighted": False},
    {"n": 500, "m": 500, "kind": "one-hot"},
    {"n": 500, "m": 700, "kind": "repeated", "p": 1.0},
    {"n": 3000, "m": 500, "kind": "one-hot", "p": 3.0},
    {"n": 100, "m": 100, "shared": True},
    {"packed": True, "p": 2.0},
    {"packed": True, "p": 1.0, "weighted": False, "masked": True},
]


def problem(options: dict[str, Any], dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], dict[str, Any]]:
    """Values and weights of both sides, that ask for gradients, and the loss's arguments."""
    left: dict[str, Any] = {"n": 40, "m": 30, "rows": 16, "weighted": True, "kind": "apart"} | options
    n, m, rows = left.pop("n"), left.pop("m"), left.pop("rows")
    kind, weighted = left.pop("kind"), left.pop("weighted")
    masked, shared = left.pop("masked", False), left.pop("shared", False)
    generator = torch.Generator("cuda").manual_seed(0)
    shapes: list[tuple[int, ...]] = [(rows, n), (rows, m)]
    if left.pop("packed", False):
        shapes = [(9000,), (4000,)]
        left["u_offsets"] = torch.tensor([0, 1, 1, 700, 704, 9000], device="cuda")
        left["v_offsets"] = torch.tensor([0, 50, 51, 53, 900, 4000], device="cuda")

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, device="cuda", generator=generator, dtype=torch.float64)

    values = [draw(shape[1:] if shared else shape) * 4 - 2 for shape in shapes]
    weights = [draw(shape) + 0.01 for shape in shapes]
    if kind == "one-hot":
        weights = [
            torch.eye(w.shape[1], device="cuda", dtype=w.dtype)[torch.arange(rows) % w.shape[1]] for w in weights
        ]
    if kind == "repeated":
        values = [(4 * x).round() for x in values]
        weights = [(3 * w).round() + 1 for w in weights]
    if masked:
        left["u_mask"], left["v_mask"] = (draw(shape) < 0.8 for shape in shapes)
    tensors = [t.to(dtype).requires_grad_() for t in (values + weights if weighted else values)]
    return tensors, left


def step(tensors: list[Tensor], backend: str, options: dict[str, Any]) -> list[Tensor]:
    losses = wasserstein_1d(*tensors, backend=backend, **options)
    return [losses.detach(), *torch.autograd.grad(losses, tensors, torch.linspace(0.5, 1.5, len(losses)).to(losses))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_agrees_with_plain_torch(backend: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    tensors, options = problem(options, dtype)
    if dtype.itemsize == 2:  # plain torch is told the same numbers in double
        plain = [t.detach().double().requires_grad_() for t in tensors]
        rtol, atol = 2 * torch.finfo(dtype).eps, 1e-6
    else:
        plain, (rtol, atol) = tensors, ((1e-9, 1e-11) if dtype == torch.float64 else (1e-5, 1e-7))
    found, expected = step(tensors, backend, options), step(plain, "torch", options)
    torch.testing.assert_close(found[0].double(), expected[0].double(), rtol=max(rtol, 1e-6), atol=atol)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other.double(), rtol=rtol, atol=atol)


def test_what_makes_no_sense_is_nan_in_its_own_pair(backend: str) -> None:
    for name, value in (("values", torch.nan), ("values", torch.inf), ("weights", -1.0), ("weights", torch.nan)):
        tensors, options = problem({"masked": True})
        with torch.no_grad():
            tensors[0 if name == "values" else 2][3] = value
        options["u_mask"][5] = False
        loss, *gradients = step(tensors, backend, options)
        assert loss.isnan().nonzero().flatten().tolist() == [3]
        assert loss[5] == 0
        masks = [options["u_mask"], options["v_mask"]] * 2
        for gradient, mask in zip(gradients, masks, strict=True):
            assert torch.equal(gradient.isnan().any(1), loss.isnan())
            assert gradient[3][mask[3]].isnan().all()
            assert (gradient[~mask] == 0).all()
            assert (gradient[5] == 0).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_can_be_captured_in_a_cuda_graph(backend: str, options: dict[str, Any]) -> None:
    tensors, options = problem(options)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(tensors, backend, options)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(tensors, backend, options)
    with torch.no_grad():
        for values in tensors[:2]:
            values.copy_(torch.randn_like(values))
    graph.replay()
    for got, want in zip(captured, step(tensors, backend, options), strict=True):
        assert torch.equal(got, want)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Any wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_waits_for_nothing(backend: str, options: dict[str, Any], request: pytest.FixtureRequest) -> None:
    tensors, options = problem(options)
    grad = torch.ones(len(wasserstein_1d(*tensors, backend=backend, **options)), device="cuda")
    torch.cuda.synchronize()
    request.getfixturevalue("no_waiting")
    losses = wasserstein_1d(*tensors, backend=backend, **options)
    torch.autograd.grad(losses, tensors, grad)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_two_runs_give_the_same_bits(backend: str, options: dict[str, Any]) -> None:
    tensors, options = problem(options, torch.bfloat16)
    first = step(tensors, backend, options)
    for _ in range(5):
        for got, want in zip(step(tensors, backend, options), first, strict=True):
            assert torch.equal(got, want)


def test_compiles_without_a_graph_break_and_gives_the_same(backend: str) -> None:
    tensors, _ = problem({})

    def loss(*inputs: Any) -> Tensor:
        losses: Tensor = wasserstein_1d(*inputs, p=2.0, backend=backend)
        return losses.exp().sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True)
    want, got = (torch.autograd.grad(function(*tensors), tensors) for function in (loss, compiled))
    torch.testing.assert_close(got, want)


def test_work_is_queued_on_the_current_stream(backend: str) -> None:
    tensors, options = problem({"n": 5000, "m": 300})
    want = step(tensors, backend, options)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # whoever does not wait for this reads the values too early
        fresh = [torch.empty_like(t).copy_(t.detach()).requires_grad_() for t in tensors]
        got = step(fresh, backend, options)
    stream.synchronize()
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


def test_a_million_points(backend: str) -> None:
    tensors, options = problem({"n": 1_000_000, "m": 333_333, "rows": 2})
    found = step(tensors, backend, options)
    expected = step([t.detach().double().requires_grad_() for t in tensors], "torch", options)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-6, atol=0)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_memory_is_what_the_outputs_take(backend: str) -> None:
    """Of pairs that fit shared memory; beside them the orders."""
    tensors, options = problem({"n": 1024, "m": 1024, "rows": 256})
    step(tensors, backend, options)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    losses = wasserstein_1d(*tensors, backend=backend, **options)
    peak = torch.cuda.max_memory_allocated() - before
    assert losses.requires_grad
    given = sum(t.nbytes for t in tensors)
    assert given <= peak <= 1.6 * given  # a number kept for each of the four, 4 bytes of order for two of them
