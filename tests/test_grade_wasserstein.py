"""What the loss means, as claims checked through the public function; `backend` runs over those that run here."""

from __future__ import annotations

import itertools
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

import wassrank
from wassrank import grade_wasserstein

both_backends = pytest.mark.parametrize("backend", ["native", "torch"])


def problem(Q: int, N: int, seed: int = 0, grades: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(Q, N, generator=generator, dtype=torch.float64)
    return scores, torch.randint(0, grades, (Q, N), generator=generator)


def gradient(scores: Tensor, labels: Tensor, **options: Any) -> Tensor:
    scores = scores.detach().clone().requires_grad_()
    grade_wasserstein(scores, labels, **options).backward()
    assert scores.grad is not None
    return scores.grad


@both_backends
def test_p1_equals_scipy_on_the_passages_themselves(backend: str) -> None:
    scores, labels = problem(12, 9)
    got = grade_wasserstein(
        scores, labels, temperature=0.7, label_temperature=0.4, target="softmax", reduction="none", backend=backend
    )
    want = [
        wasserstein_distance(y, y, softmax(s / 0.7), softmax(y / 0.4))
        for s, y in zip(scores.numpy(), labels.numpy(), strict=True)
    ]
    assert np.allclose(got, want, rtol=1e-12, atol=1e-14)


@both_backends
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("target", ["softmax", "linear", "exp2"])
def test_equals_pot_on_the_passages_themselves(p: float, target: str, backend: str) -> None:
    scores, labels = problem(12, 9, seed=1)
    got = grade_wasserstein(scores, labels, p=p, target=target, reduction="none", backend=backend)
    y = labels.numpy().T.astype(float)
    gains = {"softmax": np.exp(y), "linear": y, "exp2": 2**y - 1}[target]
    want = ot.wasserstein_1d(y, y, softmax(scores.numpy().T, axis=0), gains / gains.sum(0), p=p)
    assert np.allclose(got, want, rtol=1e-9, atol=1e-12)


@both_backends
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("in_batch", [0, 1, None])
def test_gradient_equals_central_differences(p: float, in_batch: int | None, backend: str) -> None:
    scores, labels = problem(4, 12, seed=2)
    mask = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) > 0.2
    weight = torch.tensor([1.0, 0.5, 2.0, 0.0], dtype=torch.float64)

    def loss(s: Tensor) -> Tensor:
        return grade_wasserstein(
            s, labels[:, :3], p=p, in_batch=in_batch, mask=mask, weight=weight, target="linear", backend=backend
        )

    assert torch.autograd.gradcheck(loss, scores.requires_grad_())


def test_reference_is_twice_differentiable_and_differentiates_target_and_weight() -> None:
    scores, labels = problem(3, 6, seed=3)
    target = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (scores, target, weight)]

    def loss(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return grade_wasserstein(s, labels, p=2, target=t, weight=w, backend="torch")

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@both_backends
def test_order_of_passages_does_not_matter(backend: str) -> None:
    scores, labels = problem(5, 40, seed=4)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for p in (1.0, 2.0):
        a, b = (
            grade_wasserstein(s, y, p=p, backend=backend)
            for s, y in ((scores, labels), (scores[:, order], labels[:, order]))
        )
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
        torch.testing.assert_close(
            gradient(scores, labels, p=p, backend=backend)[:, order],
            gradient(scores[:, order], labels[:, order], p=p, backend=backend),
            rtol=1e-11,
            atol=1e-15,
        )


@both_backends
def test_padding_changes_nothing(backend: str) -> None:
    scores, labels = problem(4, 6, seed=5)
    wide_scores = torch.cat([scores, torch.full((4, 5), 1e4, dtype=torch.float64)], 1)
    wide_labels = torch.cat([labels, torch.full((4, 5), -100)], 1)
    mask = torch.arange(11).expand(4, 11) < 6
    for p in (1.0, 2.0):
        assert grade_wasserstein(scores, labels, p=p, backend=backend).item() == pytest.approx(
            grade_wasserstein(wide_scores, wide_labels, p=p, mask=mask, backend=backend).item(), rel=1e-14
        )
        wide = gradient(wide_scores, wide_labels, p=p, mask=mask, backend=backend)
        torch.testing.assert_close(wide[:, :6], gradient(scores, labels, p=p, backend=backend))
        assert (wide[:, 6:] == 0).all()


@both_backends
def test_minus_infinity_is_a_mask(backend: str) -> None:
    scores, labels = problem(4, 9, seed=6)
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(2)) > 0.4
    masked = scores.masked_fill(~mask, -torch.inf)
    for target in ("softmax", "linear"):
        assert torch.equal(
            grade_wasserstein(masked, labels, target=target, backend=backend),
            grade_wasserstein(scores, labels, target=target, mask=mask, backend=backend),
        )
        assert torch.equal(
            gradient(masked, labels, target=target, backend=backend),
            gradient(scores, labels, target=target, mask=mask, backend=backend),
        )


@both_backends
@pytest.mark.parametrize("in_batch", [0, 2, None])
def test_in_batch_equals_the_dense_matrix_of_labels(in_batch: int | None, backend: str) -> None:
    scores, labels = problem(5, 15, seed=7)
    own_labels = labels[:, :3]
    own = torch.block_diag(*torch.ones(5, 1, 3)).bool()
    dense = torch.full((5, 15), 0 if in_batch is None else in_batch)
    dense[own] = own_labels.reshape(-1)
    options: dict[str, Any] = {"mask": own} if in_batch is None else {}
    for p, target in itertools.product((1.0, 2.0), ("softmax", "exp2")):
        kinds: dict[str, Any] = {"p": p, "target": target, "backend": backend}
        torch.testing.assert_close(
            grade_wasserstein(scores, own_labels, in_batch=in_batch, **kinds),
            grade_wasserstein(scores, dense, **options, **kinds),
            rtol=1e-13,
            atol=0,
        )
        torch.testing.assert_close(
            gradient(scores, own_labels, in_batch=in_batch, **kinds),
            gradient(scores, dense, **options, **kinds),
            rtol=1e-11,
            atol=1e-15,
        )


@both_backends
def test_batch_equals_rows_one_by_one(backend: str) -> None:
    scores, labels = problem(6, 20, seed=8)
    rows = grade_wasserstein(scores, labels, p=2, reduction="none", backend=backend)
    alone = torch.stack(
        [grade_wasserstein(s[None], y[None], p=2, backend=backend) for s, y in zip(scores, labels, strict=True)]
    )
    assert torch.equal(rows, alone)
    weight = torch.rand(6, dtype=torch.float64)
    mean = grade_wasserstein(scores, labels, p=2, weight=weight, backend=backend)
    torch.testing.assert_close(mean, (rows * weight).sum() / weight.sum(), rtol=1e-14, atol=0)
    total = grade_wasserstein(scores, labels, p=2, weight=weight, reduction="sum", backend=backend)
    torch.testing.assert_close(total, (rows * weight).sum(), rtol=1e-14, atol=0)


@both_backends
def test_an_empty_row_has_no_loss_no_gradient_and_no_say_in_the_mean(backend: str) -> None:
    scores, labels = problem(3, 5, seed=9)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1] = False
    torch.testing.assert_close(
        grade_wasserstein(scores, labels, mask=mask, backend=backend),
        grade_wasserstein(scores[[0, 2]], labels[[0, 2]], backend=backend),
        rtol=1e-14,
        atol=0,
    )
    assert (gradient(scores, labels, mask=mask, backend=backend)[1] == 0).all()
    assert grade_wasserstein(scores, labels, mask=mask & False, backend=backend) == 0
    assert (gradient(scores, labels, mask=mask & False, backend=backend) == 0).all()
    assert grade_wasserstein(scores[:0], labels[:0], backend=backend) == 0


@both_backends
def test_p_equals_t_is_a_minimum_with_zero_gradient(backend: str) -> None:
    _, labels = problem(6, 10, seed=10)
    for p in (1.0, 2.0):
        loss = grade_wasserstein(labels.double(), labels, p=p, target="softmax", backend=backend)
        assert 0 <= loss < 1e-15
        assert gradient(labels.double(), labels, p=p, target="softmax", backend=backend).abs().max() == 0


def test_a_mistake_of_one_grade_costs_less_than_one_of_three() -> None:
    labels = torch.tensor([[3, 2, 1, 0]])
    target = torch.tensor([[1.0, 0, 0, 0]])
    costs = [grade_wasserstein(20.0 * torch.eye(4)[i : i + 1], labels, p=2, target=target).item() for i in range(4)]
    assert costs == pytest.approx([0, 1, 4, 9], abs=1e-6)


@given(
    seed=st.integers(0, 10_000),
    Q=st.integers(1, 5),
    K=st.integers(1, 7),
    p=st.sampled_from([1.0, 1.7, 2.0, 4.0]),
    temperature=st.floats(1e-3, 1e3),
    label_temperature=st.floats(1e-3, 1e3),
    target=st.sampled_from(["softmax", "linear", "exp2"]),
    in_batch=st.sampled_from([0, 3, None]),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(max_examples=150, deadline=None)
def test_native_equals_reference_and_is_finite_whatever_the_options(
    seed: int, Q: int, K: int, p: float, temperature: float, label_temperature: float, target: str,
    in_batch: int | None, scale: float, dtype: torch.dtype,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    scores = (scale * torch.randn(Q, Q * K, generator=generator)).clamp(-1e4, 1e4).to(dtype)
    labels = torch.randint(0, 4, (Q, K), generator=generator)
    mask = torch.rand(Q, K, generator=generator) > 0.2
    options: dict[str, Any] = {
        "p": p, "temperature": temperature, "label_temperature": label_temperature, "target": target,
        "in_batch": in_batch, "mask": mask,
    }  # fmt: skip
    got = grade_wasserstein(scores, labels, backend="native", **options)
    want = grade_wasserstein(scores.double(), labels, backend="torch", **options)
    assert got.isfinite()
    tolerance = 1e-11 if dtype == torch.float64 else 2e-6
    assert abs(got - want) <= tolerance * want + tolerance * 3**p
    assert gradient(scores, labels, backend="native", **options).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_err_no_more_than_twice_what_plain_torch_does(dtype: torch.dtype) -> None:
    """Plain torch in the same dtype: softmax, level masses and running sums without a wider accumulator."""
    scores, labels = problem(32, 256, seed=11)
    scores = scores.to(dtype)

    def plain(s: Tensor) -> Tensor:
        P, T = s.softmax(-1), labels.to(s.dtype).softmax(-1)
        levels = torch.zeros(32, 4, dtype=s.dtype)
        F, G = (levels.scatter_add(1, labels, x).cumsum(-1) for x in (P, T))
        return (F - G).abs().sum(-1).mean()

    exact = scores.double().requires_grad_()
    want = plain(exact)
    want.backward()
    half = scores.clone().requires_grad_()
    plain(half).backward()
    assert exact.grad is not None
    assert half.grad is not None
    torch_error = (half.grad.double() - exact.grad).norm()
    assert (gradient(scores, labels, target="softmax").double() - exact.grad).norm() <= 2 * torch_error
    loss = grade_wasserstein(scores, labels, target="softmax")
    assert abs(loss.double() - want) <= 2 * abs(plain(scores).double() - want) + 1e-6


def test_module_equals_function() -> None:
    scores, labels = problem(4, 12, seed=12)
    loss = wassrank.GradeWassersteinLoss(p=2, temperature=0.5, target="linear", in_batch=1, reduction="sum")
    options: dict[str, Any] = {"p": 2, "temperature": 0.5, "target": "linear", "in_batch": 1, "reduction": "sum"}
    assert torch.equal(loss(scores, labels[:, :3]), grade_wasserstein(scores, labels[:, :3], **options))
    mask, weight = torch.rand(4, 3) > 0.5, torch.rand(4)
    options |= {"mask": mask, "weight": weight, "target": torch.rand(4, 3)}
    got = loss(scores, labels[:, :3], mask=mask, weight=weight, target=options["target"])
    assert torch.equal(got, grade_wasserstein(scores, labels[:, :3], **options))
    assert "p=2" in repr(loss)


def test_arguments_need_not_be_contiguous() -> None:
    scores, labels = problem(6, 8, seed=13)
    assert torch.equal(
        grade_wasserstein(scores.T.contiguous().T, labels.T.contiguous().T), grade_wasserstein(scores, labels)
    )
    assert torch.equal(
        gradient(scores[:, ::2], labels[:, ::2]), gradient(scores[:, ::2].contiguous(), labels[:, ::2].contiguous())
    )


@both_backends
def test_the_targets_default_is_gains_for_grades_and_a_softmax_for_a_teachers_scores(backend: str) -> None:
    scores, labels = problem(6, 10, seed=3)
    for y, target in ((labels, "linear"), (labels.double() - 2.5, "softmax")):
        default = grade_wasserstein(scores, y, backend=backend)
        assert default == grade_wasserstein(scores, y, target=target, backend=backend)
        assert default == wassrank.GradeWassersteinLoss(target="auto", backend=backend)(scores, y)
        assert default != grade_wasserstein(scores, y, target="exp2", backend=backend)
