"""InfoNCE, listwise KL and weighted sums of the row losses, against torch's own cross_entropy and kl_div."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import wassrank
from wassrank import combined_loss, grade_wasserstein, info_nce, listwise_kl

both_backends = pytest.mark.parametrize("backend", ["native", "torch"])
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}


def problem(Q: int, N: int, K: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(Q, N, generator=generator, dtype=torch.float64)
    return scores.requires_grad_(), torch.randint(0, 4, (Q, K), generator=generator)


def assert_same(got: Tensor, want: Tensor, scores: Tensor) -> None:
    torch.testing.assert_close(got, want, **CLOSE)
    ours, theirs = (torch.autograd.grad(loss, scores, retain_graph=True)[0] for loss in (got, want))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-15)


@both_backends
def test_info_nce_with_one_positive_is_cross_entropy(backend: str) -> None:
    scores, labels = problem(6, 18, 3)
    place = torch.tensor([0, 1, 2, 2, 1, 0])
    got = info_nce(scores, labels, positives=place, temperature=0.3, backend=backend)
    assert_same(got, F.cross_entropy(scores / 0.3, 3 * torch.arange(6) + place), scores)
    best = torch.zeros_like(labels).scatter(1, place[:, None], 3)
    assert_same(info_nce(scores, best, temperature=0.3, backend=backend), got, scores)
    weight = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 3.0], dtype=torch.float64)
    rows = F.cross_entropy(scores, 3 * torch.arange(6) + place, reduction="none")
    got = info_nce(scores, labels, positives=place, weight=weight, backend=backend)
    assert_same(got, (weight * rows).sum() / weight.sum(), scores)


@both_backends
def test_info_nce_with_several_positives_is_cross_entropy_with_their_mean(backend: str) -> None:
    scores, labels = problem(5, 9, 9, seed=1)
    positive = (labels == labels.amax(1, keepdim=True)).double()
    want = F.cross_entropy(scores, positive / positive.sum(1, keepdim=True))
    assert_same(info_nce(scores, labels, backend=backend), want, scores)


@both_backends
@pytest.mark.parametrize("negative_grade", [-1, 0, 1, 3])
@pytest.mark.parametrize("in_batch", [0, 2, None])
def test_info_nce_leaves_out_own_passages_above_the_negative_grade(
    negative_grade: int, in_batch: int | None, backend: str
) -> None:
    scores, labels = problem(4, 20, 5, seed=2)
    own = torch.block_diag(*torch.ones(4, 1, 5)).bool()
    grades = torch.zeros(4, 20, dtype=torch.long)
    grades[own] = labels.flatten()
    positive = own & (grades == labels.amax(1, keepdim=True))
    competes = positive | (own & (grades <= negative_grade)) | (~own if in_batch is not None else False)
    log_p = scores.masked_fill(~competes, -torch.inf).log_softmax(1)
    want = -(log_p.masked_fill(~positive, 0).sum(1) / positive.sum(1)).mean()
    got = info_nce(scores, labels, negative_grade=negative_grade, in_batch=in_batch, backend=backend)
    assert_same(got, want, scores)


@both_backends
def test_a_query_without_a_positive_counts_for_nothing(backend: str) -> None:
    scores, labels = problem(4, 8, 2, seed=3)
    mask = torch.tensor([[True, True], [False, True], [True, True], [True, True]])
    place = torch.tensor([1, 0, -1, 0])  # the second's is masked, the third has none
    got = info_nce(scores, labels, positives=place, mask=mask, reduction="none", backend=backend)
    assert (got[[1, 2]] == 0).all()
    assert (got[[0, 3]] > 0).all()
    mean = info_nce(scores, labels, positives=place, mask=mask, backend=backend)
    torch.testing.assert_close(mean, got[[0, 3]].mean(), **CLOSE)
    (gradient,) = torch.autograd.grad(mean, scores)
    assert (gradient[[1, 2]] == 0).all()


@both_backends
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_symmetric_info_nce_is_the_mean_of_both_directions(reduction: str, backend: str) -> None:
    scores, labels = problem(5, 15, 3, seed=4)
    place = torch.tensor([2, 0, 1, 1, 0])
    columns = 3 * torch.arange(5) + place
    rows = F.cross_entropy(scores / 0.5, columns, reduction=reduction)
    queries = F.cross_entropy(scores[:, columns].T / 0.5, torch.arange(5), reduction=reduction)
    got = info_nce(
        scores, labels, positives=place, temperature=0.5, symmetric=True, reduction=reduction, backend=backend
    )
    assert_same(got, (rows + queries) / 2, scores)


@both_backends
def test_symmetric_info_nce_leaves_out_queries_without_a_positive(backend: str) -> None:
    scores, labels = problem(4, 8, 2, seed=5)
    mask = torch.tensor([[True, True], [False, False], [True, False], [True, True]])
    best = labels.masked_fill(~mask, -1).argmax(1)
    kept = [0, 2, 3]
    columns = 2 * torch.arange(4) + best
    real = mask.flatten().expand(4, 8)
    rows = F.cross_entropy(scores.masked_fill(~real, -torch.inf)[kept], columns[kept])
    queries = F.cross_entropy(scores[:, columns].T[kept], torch.arange(4)[kept])
    labels = torch.zeros_like(labels).scatter(1, best[:, None], 1)
    got = info_nce(scores, labels, mask=mask, symmetric=True, backend=backend)
    assert_same(got, (rows + queries) / 2, scores)
    torch.testing.assert_close(info_nce(scores, labels, mask=real, symmetric=True, backend=backend)[()], got, **CLOSE)


@both_backends
@pytest.mark.parametrize("target", ["softmax", "linear", "exp2", "given"])
def test_listwise_kl_is_kl_div(target: str, backend: str) -> None:
    scores, labels = problem(6, 9, 9, seed=6)
    labels[:, 0] = 3
    y = labels.double()
    gains = {"softmax": (y / 0.7).exp(), "linear": y, "exp2": 2**y - 1, "given": torch.rand_like(y)}[target]
    T = gains / gains.sum(1, keepdim=True)
    want = F.kl_div((scores / 0.4).log_softmax(1), T, reduction="batchmean")
    asked: Any = gains if target == "given" else target
    got = listwise_kl(scores, labels, temperature=0.4, label_temperature=0.7, target=asked, backend=backend)
    assert_same(got, want, scores)


@both_backends
@pytest.mark.parametrize("in_batch", [0, 1, None])
def test_listwise_kl_in_batch_is_kl_div_over_the_dense_matrix(in_batch: int | None, backend: str) -> None:
    scores, labels = problem(4, 12, 3, seed=7)
    own = torch.block_diag(*torch.ones(4, 1, 3)).bool()
    grades = torch.full((4, 12), -torch.inf if in_batch is None else float(in_batch), dtype=torch.float64)
    grades[own] = labels.flatten().double()
    real = own if in_batch is None else torch.ones_like(own)
    T, log_p = grades.softmax(1), scores.masked_fill(~real, -torch.inf).log_softmax(1)
    want = torch.where(real, torch.xlogy(T, T) - T * log_p, 0.0).sum(1).mean()
    assert_same(listwise_kl(scores, labels, in_batch=in_batch, backend=backend), want, scores)


@both_backends
def test_combined_loss_is_the_sum_of_its_parts(backend: str) -> None:
    scores, labels = problem(6, 18, 3, seed=8)
    mask = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)) > 0.2
    shared: dict[str, Any] = {"temperature": 0.5, "mask": mask, "backend": backend}
    got = combined_loss(scores, labels, wasserstein=0.7, info_nce=0.5, kl=2.0, p=2, target="softmax", **shared)
    want = (
        0.7 * grade_wasserstein(scores, labels, p=2, target="softmax", **shared)
        + 0.5 * info_nce(scores, labels, **shared)
        + 2.0 * listwise_kl(scores, labels, **shared)
    )
    assert_same(got, want, scores)
    for one, alone in (
        ("wasserstein", partial(grade_wasserstein, target="softmax")),
        ("info_nce", info_nce),
        ("kl", listwise_kl),
    ):
        factors: dict[str, Any] = {"wasserstein": 0.0, "info_nce": 0.0, "kl": 0.0, "target": "softmax"} | {one: 1.0}
        assert_same(combined_loss(scores, labels, **factors, **shared), alone(scores, labels, **shared), scores)


@both_backends
def test_a_row_counts_if_it_counts_for_one_of_the_losses(backend: str) -> None:
    scores, labels = problem(3, 6, 2, seed=9)
    labels[1] = 0  # no gain: nothing for the distance, but InfoNCE has its best grade
    shared: dict[str, Any] = {"target": "linear", "backend": backend}
    rows = combined_loss(scores, labels, info_nce=1.0, reduction="none", **shared)
    torch.testing.assert_close(rows[1], info_nce(scores, labels, reduction="none", backend=backend)[1], **CLOSE)
    torch.testing.assert_close(combined_loss(scores, labels, info_nce=1.0, **shared), rows.mean(), **CLOSE)


@both_backends
@pytest.mark.parametrize("terms", [{"kl": 1.0}, {"info_nce": 1.0}, {"info_nce": 0.5, "kl": 0.5}], ids=str)
def test_gradient_equals_central_differences(terms: dict[str, Any], backend: str) -> None:
    scores, labels = problem(4, 12, 3, seed=10)
    positives = torch.tensor([0, 2, -1, 1])
    asked: list[dict[str, Any]] = [{"positives": positives}, {"in_batch": 1}]
    for options in asked:

        def loss(s: Tensor, options: dict[str, Any] = options) -> Tensor:
            return combined_loss(s, labels, temperature=0.8, backend=backend, **terms, **options)

        assert torch.autograd.gradcheck(loss, scores)


@both_backends
@pytest.mark.parametrize("loss", [grade_wasserstein, info_nce, listwise_kl, combined_loss])
def test_packed_lists_give_what_each_gives_alone(loss: Any, backend: str) -> None:
    lengths = [4, 1, 0, 7, 30]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    flat, _ = problem(1, sum(lengths), 1, seed=11)
    scores = flat.detach()[0].requires_grad_()
    labels = torch.randint(0, 4, scores.shape, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) > 0.2
    together = loss(scores, labels, offsets=offsets, mask=mask, reduction="none", backend=backend)
    (gradient,) = torch.autograd.grad(together.sum(), scores)
    for i, (s, y, m, g) in enumerate(zip(*(t.split(lengths) for t in (scores, labels, mask, gradient)), strict=True)):
        alone = s.detach()[None].requires_grad_()
        want = loss(alone, y[None], mask=m[None], reduction="none", backend=backend)
        torch.testing.assert_close(together[i : i + 1], want, rtol=1e-13, atol=0)
        torch.testing.assert_close(g[None], torch.autograd.grad(want.sum(), alone)[0], rtol=1e-12, atol=1e-16)
    # And what padding gives.
    width = max(lengths)
    padded = torch.nn.utils.rnn.pad_sequence(scores.detach().split(lengths), batch_first=True).requires_grad_()
    padded_labels = torch.nn.utils.rnn.pad_sequence(labels.split(lengths), batch_first=True)
    padded_mask = torch.nn.utils.rnn.pad_sequence(mask.split(lengths), batch_first=True)
    assert padded.shape == (len(lengths), width)
    got = loss(padded, padded_labels, mask=padded_mask, backend=backend)
    torch.testing.assert_close(
        loss(scores, labels, offsets=offsets, mask=mask, backend=backend), got, rtol=1e-13, atol=0
    )


@both_backends
def test_position_takes_the_grades_place(backend: str) -> None:
    scores, labels = problem(5, 10, 10, seed=12)
    for p in (1.0, 1.5, 2.0):
        shared: dict[str, Any] = {"p": p, "target": "softmax", "num_levels": 4, "backend": backend}
        plain = grade_wasserstein(scores, labels, **shared)
        assert_same(grade_wasserstein(scores, labels, position=[0, 1, 2, 3], **shared), plain, scores)
        doubled = grade_wasserstein(scores, labels, position=[5, 3, 1, -1], **shared)
        assert_same(doubled, 2**p * plain, scores)
        gains = [0.0, 1.0, 3.0, 7.0]
        got = grade_wasserstein(scores, labels, position=gains, **shared)
        # Each passage a level of its own, at its gain.
        coordinates = torch.tensor(gains, dtype=torch.float64)[labels]
        want = grade_wasserstein(scores, labels.double(), position=coordinates, p=p, target="softmax", backend="torch")
        torch.testing.assert_close(got, want, rtol=1e-11, atol=0)


@both_backends
def test_each_query_may_have_its_own_label_temperature(backend: str) -> None:
    scores, labels = problem(4, 12, 3, seed=13)
    temperatures = torch.tensor([0.3, 1.0, 2.5, 10.0], dtype=torch.float64)
    for loss in (grade_wasserstein, listwise_kl):
        rows = loss(scores, labels, label_temperature=temperatures, reduction="none", backend=backend)
        for i, temperature in enumerate(temperatures.tolist()):
            alone = loss(scores, labels, label_temperature=temperature, reduction="none", backend=backend)
            torch.testing.assert_close(rows[i], alone[i], rtol=1e-13, atol=0)


def test_modules_equal_functions() -> None:
    scores, labels = problem(4, 12, 3, seed=14)
    mask = torch.rand(4, 3) > 0.3
    pairs: list[tuple[Any, Any, dict[str, Any]]] = [
        (wassrank.InfoNCELoss, info_nce, {"temperature": 0.5, "negative_grade": 0, "symmetric": True}),
        (wassrank.ListwiseKLLoss, listwise_kl, {"target": "exp2", "in_batch": None}),
        (wassrank.CombinedLoss, combined_loss, {"kl": 0.5, "info_nce": 0.1, "p": 2, "temperature": 0.3}),
    ]
    for module, function, options in pairs:
        loss = module(**options)
        assert torch.equal(loss(scores, labels, mask=mask), function(scores, labels, mask=mask, **options))
        assert all(f"{name}={value!r}" in repr(loss) for name, value in options.items())
    got = wassrank.InfoNCELoss()(scores, labels, positives=torch.tensor([0, 1, 2, 0]))
    assert torch.equal(got, info_nce(scores, labels, positives=torch.tensor([0, 1, 2, 0])))


@given(
    seed=st.integers(0, 10_000),
    Q=st.integers(1, 5),
    K=st.integers(1, 7),
    factors=st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 3).filter(any),
    p=st.sampled_from([1.0, 1.7, 2.0]),
    temperature=st.floats(1e-3, 1e3),
    target=st.sampled_from(["softmax", "linear", "exp2", "given"]),
    in_batch=st.sampled_from([0, 3, None]),
    negative_grade=st.sampled_from([None, -1, 0, 2]),
    indexed=st.booleans(),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(max_examples=150, deadline=None)
def test_native_equals_reference_and_is_finite_whatever_the_options(
    seed: int, Q: int, K: int, factors: tuple[float, float, float], p: float, temperature: float, target: str,
    in_batch: int | None, negative_grade: int | None, indexed: bool, scale: float, dtype: torch.dtype,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    scores = (scale * torch.randn(Q, Q * K, generator=generator)).clamp(-1e4, 1e4).to(dtype)
    labels = torch.randint(0, 4, (Q, K), generator=generator)
    if factors[0] or factors[2]:
        negative_grade = None  # which InfoNCE alone has
    options: dict[str, Any] = dict(zip(("wasserstein", "info_nce", "kl"), factors, strict=True)) | {
        "p": p, "temperature": temperature, "in_batch": in_batch, "negative_grade": negative_grade,
        "mask": torch.rand(Q, K, generator=generator) > 0.2,
        "target": torch.rand(Q, Q * K, generator=generator) if target == "given" else target,
        "positives": torch.randint(-1, K, (Q,), generator=generator) if indexed else None,
    }  # fmt: skip
    narrow, wide = scores.requires_grad_(), scores.detach().double().requires_grad_()
    got = combined_loss(narrow, labels, backend="native", **options)
    want = combined_loss(wide, labels, backend="torch", **options)
    assert got.isfinite()
    tolerance = 1e-11 if dtype == torch.float64 else 2e-6
    size = 3**p + (float(scores.abs().max()) / temperature if factors[1] or factors[2] else 0)
    assert abs(got.double() - want) <= tolerance * (abs(want) + size)
    (gradient,), (expected,) = torch.autograd.grad(got, narrow), torch.autograd.grad(want, wide)
    assert gradient.isfinite().all()
    rounding = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 1e-2}[dtype]
    assert (gradient.double() - expected).norm() <= rounding * (expected.norm() + 1 / temperature)
