"""`sliced_wasserstein` against POT, its definition, and itself line by line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

import wassrank
from wassrank import sliced_wasserstein

every_backend = pytest.mark.parametrize("backend", ["native", "torch"])


def clouds(
    *batch: int, n: int = 12, m: int = 9, d: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Two clouds and their weights, that ask for gradients."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(*batch, k, d, generator=generator, dtype=torch.float64) for k in (n, m))
    a, b = (torch.rand(*batch, k, generator=generator, dtype=torch.float64) + 0.1 for k in (n, m))
    return [t.to(dtype).requires_grad_() for t in (x, y + 0.5, a, b)]


def step(inputs: list[Tensor], **options: Any) -> list[Tensor]:
    x, y, a, b = inputs
    distance = sliced_wasserstein(x, y, x_weights=a, y_weights=b, **options)
    return [distance.detach(), *torch.autograd.grad(distance.sum(), inputs)]


@every_backend
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("max_sliced", [False, True])
def test_equals_pot_on_the_same_lines(max_sliced: bool, p: float, backend: str) -> None:
    x, y, a, b = (t.detach() for t in clouds())
    lines = torch.nn.functional.normalize(torch.randn(40, 3, dtype=torch.float64), dim=-1)
    got = sliced_wasserstein(
        x, y, p=p, x_weights=a, y_weights=b, projections=lines, max_sliced=max_sliced, backend=backend
    )
    pots = ot.max_sliced_wasserstein_distance if max_sliced else ot.sliced_wasserstein_distance
    shares = [(w / w.sum()).numpy() for w in (a, b)]
    want = pots(x.numpy(), y.numpy(), *shares, projections=lines.T.numpy(), p=p)
    assert np.isclose(float(got) ** (1 / p), want, rtol=1e-10)


@every_backend
@pytest.mark.parametrize("max_sliced", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_chunks_change_neither_value_nor_gradient(chunk: int, max_sliced: bool, backend: str) -> None:
    options: dict[str, Any] = {"n_projections": 20, "seed": 3, "max_sliced": max_sliced, "backend": backend}
    want = step(clouds(2, 3), **options)
    got = step(clouds(2, 3), **options, chunk=chunk)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("max_sliced", [False, True])
def test_gradients_equal_central_differences(max_sliced: bool, chunk: int | None) -> None:
    def distance(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        options: dict[str, Any] = {"max_sliced": max_sliced, "chunk": chunk}
        return sliced_wasserstein(x, y, 10, 2, x_weights=a, y_weights=b, seed=0, **options)

    assert torch.autograd.gradcheck(distance, clouds(2, n=5, m=4))


@pytest.mark.parametrize("chunk", [None, 4])
def test_clouds_broadcast_and_each_gets_the_sum_of_its_gradients(chunk: int | None) -> None:
    x, y, a, b = clouds(3)
    one_y, one_b = (t.detach()[0].clone().requires_grad_() for t in (y, b))
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
        x, y, a, b = inputs
        distance = sliced_wasserstein(x, y, 10, x_weights=a, y_weights=b, seed=1, chunk=chunk)
        assert distance.shape == (3,)
        return torch.autograd.grad((scale * distance).sum(), inputs)

    shared = gradients(x, one_y, a, one_b)
    wide = [t.detach().expand(3, *t.shape).clone().requires_grad_() for t in (one_y, one_b)]
    apart = gradients(x, wide[0], a, wide[1])
    for one, other in zip(shared, (apart[0], apart[1].sum(0), apart[2], apart[3].sum(0)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_a_line_is_the_1d_distance_and_the_identity_of_a_cloud_costs_nothing() -> None:
    x, y, _, _ = (t.detach() for t in clouds(4, d=1))
    line = torch.ones(1, 1, dtype=torch.float64)
    got = sliced_wasserstein(x, y, p=1.5, projections=line)
    torch.testing.assert_close(got, wassrank.wasserstein_1d(x[..., 0], y[..., 0], p=1.5))
    assert sliced_wasserstein(x, x.flip(-2), seed=0).abs().max() < 1e-15


def test_masked_points_take_no_part() -> None:
    x, y, _, _ = clouds(2)
    mask = torch.arange(12) < torch.tensor([[12], [5]])
    got = sliced_wasserstein(x, y, x_mask=mask, seed=2)
    want = sliced_wasserstein(x[1, :5], y[1], seed=2)
    torch.testing.assert_close(got[1], want, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(got.sum(), x)
    assert (gradient[~mask] == 0).all()


def test_lines_come_from_seed_generator_or_the_global_one() -> None:
    x, y, _, _ = (t.detach() for t in clouds())
    assert torch.equal(sliced_wasserstein(x, y, seed=5), sliced_wasserstein(x, y, seed=5))
    from_generator = sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(5))
    assert torch.equal(from_generator, sliced_wasserstein(x, y, seed=5))
    assert not torch.equal(sliced_wasserstein(x, y), sliced_wasserstein(x, y))
    torch.manual_seed(5)
    first = sliced_wasserstein(x, y)
    torch.manual_seed(5)
    assert torch.equal(first, sliced_wasserstein(x, y))


@pytest.mark.parametrize("max_sliced", [False, True])
def test_half_clouds_are_projected_in_float32(max_sliced: bool) -> None:
    inputs = clouds(2, dtype=torch.bfloat16)
    got = step(inputs, seed=0, max_sliced=max_sliced)
    wide = step([t.detach().float().requires_grad_() for t in inputs], seed=0, max_sliced=max_sliced)
    assert [t.dtype for t in got] == [torch.float32, *[torch.bfloat16] * 4]
    torch.testing.assert_close(got[0], wide[0], rtol=1e-6, atol=0)
    for one, other in zip(got[1:], wide[1:], strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.01, atol=1e-6)


def test_compiles_into_one_graph_with_lines_given() -> None:
    lines = torch.nn.functional.normalize(torch.randn(8, 3, dtype=torch.float64), dim=-1)
    compiled = torch.compile(lambda x, y: sliced_wasserstein(x, y, projections=lines), fullgraph=True)
    x, y, _, _ = clouds(2)
    torch.testing.assert_close(compiled(x, y), sliced_wasserstein(x, y, projections=lines), rtol=1e-13, atol=0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells how much a process has held at most")
def test_chunks_bound_memory() -> None:
    """2000 lines of two clouds of 5000 points are 40 MB a cloud in float32, and as much again for gradients."""

    def growth(chunk: int | None) -> float:
        script = (
            "import re, torch\n"
            "from wassrank import sliced_wasserstein\n"
            "def step(lines):\n"
            "    x, y = (torch.randn(5000, 3, requires_grad=True) for _ in range(2))\n"
            f"    sliced_wasserstein(x, y, lines, chunk={chunk}).backward()\n"
            "    return int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])  # KiB, at most\n"
            "before = step(40)\n"
            "print((step(2000) - before) / 1024)\n"
        )
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        return float(run.stdout)

    assert growth(None) > 120
    assert growth(20) < 40


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"y": torch.zeros(4, 2)}, r"clouds must be \[\.\.\., points, d\] of one d"),
        ({"x": torch.zeros(3)}, r"clouds must be \[\.\.\., points, d\]"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"n_projections": 0}, "at least one line"),
        ({"seed": 1, "generator": torch.Generator()}, "pass one of them"),
        ({"projections": torch.zeros(5, 2)}, r"projections must be \[lines, 3\]"),
        ({"p": 0.5}, "p must be a finite number >= 1"),
        ({"x_weights": -torch.ones(5)}, "u_weights' row 0 holds a weight that is negative"),
    ],
)
def test_bad_input_is_refused_with_the_reason(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sliced_wasserstein(**{"x": torch.zeros(5, 3), "y": torch.zeros(4, 3)} | options)
    with pytest.raises(TypeError, match="x must be a float64"):
        sliced_wasserstein(torch.zeros(5, 3, dtype=torch.int64), torch.zeros(4, 3))
