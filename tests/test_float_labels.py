"""Labels that are any floats, a teacher's scores: each passage has a place of its own on the line."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import wasserstein_distance
from torch import Tensor

from wassrank import combined_loss, grade_order, grade_wasserstein, info_nce, listwise_kl
from wassrank.functional.graded_loss import say_once

BACKENDS = ["native", "torch"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def problem(Q: int, N: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores, labels = 2 * torch.randn(2, Q, N, generator=generator, dtype=torch.float64)
    return scores.to(dtype).requires_grad_(), labels.to(dtype)


def step(scores: Tensor, labels: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    loss = grade_wasserstein(scores, labels, **options)
    return loss.detach(), torch.autograd.grad(loss, scores, torch.ones_like(loss))[0]


@every_backend
def test_p1_equals_scipy(backend: str) -> None:
    scores, labels = problem(12, 9)
    got = grade_wasserstein(scores, labels, temperature=0.7, label_temperature=0.4, reduction="none", backend=backend)
    want = [
        wasserstein_distance(y, y, softmax(s / 0.7), softmax(y / 0.4))
        for s, y in zip(scores.detach().numpy(), labels.numpy(), strict=True)
    ]
    assert np.allclose(got.detach(), want, rtol=1e-12, atol=1e-14)


@every_backend
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("target", ["softmax", "linear", "exp2", "given"])
def test_equals_pot(p: float, target: str, backend: str) -> None:
    scores, labels = problem(12, 30, seed=1)
    y = labels.numpy().T
    gains = {"softmax": np.exp(y), "linear": y, "exp2": 2**y - 1, "given": np.abs(y) + 0.1}[target].clip(0)
    asked: Any = torch.from_numpy(gains.T.copy()) if target == "given" else target
    got = grade_wasserstein(scores, labels, p=p, target=asked, reduction="none", backend=backend)
    want = ot.wasserstein_1d(y, y, softmax(scores.detach().numpy().T, axis=0), gains / gains.sum(0), p=p)
    assert np.allclose(got.detach(), want, rtol=1e-9, atol=1e-12)


@every_backend
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_gradient_equals_central_differences(p: float, backend: str) -> None:
    scores, labels = problem(4, 8, seed=2)
    mask = torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) > 0.2
    weight = torch.tensor([1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s: grade_wasserstein(s, labels, p=p, mask=mask, weight=weight, backend=backend), scores
    )


@every_backend
@pytest.mark.parametrize("in_batch", [0, 2, None])
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_whole_floats_are_integer_grades(p: float, in_batch: int | None, backend: str) -> None:
    """Ties in grade give what the level path gives."""
    scores, _ = problem(5, 20, seed=3)
    grades = torch.randint(0, 4, (5, 4), generator=torch.Generator().manual_seed(1))
    for target in ("softmax", "linear"):
        shared: dict[str, Any] = {"p": p, "in_batch": in_batch, "target": target, "backend": backend}
        got = step(scores, grades.double(), **shared)
        want = step(scores, grades, **shared | {"backend": "torch"})
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-14)


@every_backend
def test_order_of_passages_does_not_matter_and_the_axis_may_move(backend: str) -> None:
    scores, labels = problem(5, 40, seed=4)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    loss, gradient = step(scores, labels, p=2, backend=backend)
    moved, moved_gradient = step(scores.detach()[:, order].requires_grad_(), labels[:, order], p=2, backend=backend)
    torch.testing.assert_close(moved, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(moved_gradient, gradient[:, order], rtol=1e-10, atol=1e-14)
    T = labels.softmax(1)
    shifted = grade_wasserstein(scores, 2 * labels + 7, target=T, p=2, backend=backend)
    torch.testing.assert_close(shifted.detach(), 4 * loss, rtol=1e-11, atol=0)


@every_backend
def test_packed_lists_give_what_each_gives_alone(backend: str) -> None:
    lengths = [4, 1, 0, 7, 30]
    scores, labels = (t[0] for t in problem(1, sum(lengths), seed=5))
    scores = scores.detach().requires_grad_()
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    loss, gradient = step(scores, labels, offsets=offsets, reduction="none", backend=backend)
    for i, (s, y, g) in enumerate(zip(*(t.split(lengths) for t in (scores, labels, gradient)), strict=True)):
        want, want_gradient = step(s.detach()[None].requires_grad_(), y[None], reduction="none", backend=backend)
        torch.testing.assert_close(loss[i : i + 1], want, rtol=1e-13, atol=0)
        torch.testing.assert_close(g[None], want_gradient, rtol=1e-12, atol=1e-16)


@every_backend
def test_position_takes_the_labels_place(backend: str) -> None:
    scores, labels = problem(4, 12, seed=6)
    position = -1 / (1 + labels.exp())
    got = grade_wasserstein(scores, labels, position=position, p=2, backend=backend)
    want = grade_wasserstein(scores, position, target=labels.softmax(1), p=2, backend=backend)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


@given(seed=st.integers(0, 10_000), N=st.integers(1, 12), p=st.floats(1, 4), spread=st.sampled_from([0.0, 1.0, 1e4]))
@settings(max_examples=60, deadline=None)
def test_finite_whatever_comes(seed: int, N: int, p: float, spread: float) -> None:
    scores, labels = problem(3, N, seed)
    scores = (spread * scores.detach()).clamp(-1e4, 1e4).requires_grad_()
    labels = labels.round(decimals=1)
    for backend in BACKENDS:
        loss, gradient = step(scores, labels, p=p, backend=backend)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_p_equals_t_has_no_loss_and_no_gradient() -> None:
    _, labels = problem(6, 10, seed=7)
    for p in (1.0, 2.0):
        loss, gradient = step(labels.clone().requires_grad_(), labels, p=p, backend="torch")
        assert 0 <= loss < 1e-15
        assert gradient.abs().max() == 0


def test_a_label_that_is_no_number_is_refused_unless_it_takes_no_part() -> None:
    scores, labels = problem(3, 5, seed=8)
    labels[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"labels hold nan.*mask"):
        grade_wasserstein(scores, labels, backend="torch")
    mask = ~labels.isnan()
    loss, gradient = step(scores, labels, mask=mask, backend="torch")
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient[1, 2] == 0


@every_backend
def test_the_other_losses_take_floats_too(backend: str) -> None:
    scores, labels = problem(4, 12, seed=9)
    T = labels.softmax(1)
    want = (torch.xlogy(T, T) - T * scores.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(listwise_kl(scores, labels, backend=backend), want)
    best = torch.nn.functional.cross_entropy(scores, labels.argmax(1))
    torch.testing.assert_close(info_nce(scores, labels, backend=backend), best)
    together = combined_loss(scores, labels, kl=1.0, info_nce=1.0, backend=backend)
    torch.testing.assert_close(together, grade_wasserstein(scores, labels, backend=backend) + want + best)


def test_what_a_fused_backend_cannot_do_is_refused_and_auto_says_once_what_it_takes() -> None:
    scores, labels = problem(3, 5, seed=10)
    options: dict[str, Any] = {"info_nce": 1.0, "negative_grade": 1}
    with pytest.raises(ValueError, match="backend='native' cannot do this: negative_grade leaves out passages"):
        combined_loss(scores, labels, **options, backend="native")
    say_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="plain-torch backend: negative_grade leaves out"):
        combined_loss(scores, labels, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        combined_loss(scores, labels, **options)


def test_an_order_may_be_made_once() -> None:
    scores, labels = problem(4, 300, seed=11)
    order = grade_order(labels)
    assert order.dtype == torch.int32
    assert torch.equal(order.long(), labels.argsort(dim=1, stable=True))
    asked: list[dict[str, Any]] = [{}, {"p": 2.0}]
    for options in asked:
        assert torch.equal(
            grade_wasserstein(scores, labels, order=order, **options), grade_wasserstein(scores, labels, **options)
        )


@pytest.mark.parametrize("K", [20, 5])
def test_an_order_of_other_labels_is_refused(K: int) -> None:
    scores, _ = problem(4, 20, seed=12)
    labels = problem(4, K, seed=13)[1]
    order = grade_order(labels)
    for wrong in (order.flip(1), order + 1, order - 1):
        with pytest.raises(ValueError, match=r"order is not the order of these labels.*grade_order"):
            grade_wasserstein(scores, labels, order=wrong, backend="native")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("N", [0, 1, 31, 33, 3000])
def test_order_is_the_stable_one(dtype: torch.dtype, N: int) -> None:
    values = (4 * torch.randn(5, N, generator=torch.Generator().manual_seed(N))).round().to(dtype)
    if N > 4 and dtype.is_floating_point:
        values[0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    assert torch.equal(grade_order(values).long(), values.argsort(dim=1, stable=True))
    lengths = [N // 2, 0, N - N // 2]
    flat = values[0] if N else values[0, :0]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    want = torch.cat([part.argsort(stable=True) for part in flat.split(lengths)])
    assert torch.equal(grade_order(flat.contiguous(), offsets).long(), want)
