"""The batch-Gaussian distance: against explicit covariances, the published algorithm, and its own edges."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import null_space, sqrtm
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.losses.gaussian_wasserstein import published_distance
from benchmarks.losses.grade_wasserstein import dense
from wassrank import GaussianWassersteinLoss, gaussian_wasserstein, target_mass_on_graded
from wassrank.functional.graded_loss import say_once
from wassrank.gaussian import distance
from wassrank.gaussian.passes import Arguments
from wassrank.gaussian.plain_passes import PlainPasses
from wassrank.gaussian.split_svd import norm_and_factor, split_svd
from wassrank.ops import inputs
from wassrank.reference.nuclear_norm import norm_and_polar_factor, nuclear_norm

BACKENDS = ["native", "torch"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def problem(Q: int, N: int, seed: int = 0, *, in_batch: bool = False, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Scores and grades, [Q, N] or [Q, N / Q]."""
    generator = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(Q, N, generator=generator, dtype=torch.float64)
    grades = torch.randint(0, 4, (Q, N // Q if in_batch else N), generator=generator)
    return scores.requires_grad_(), grades


def step(scores: Tensor, labels: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    loss = gaussian_wasserstein(scores, labels, **options)
    return loss.detach(), torch.autograd.grad(loss, scores)[0]


def bures(P: NDArray[Any], T: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """W₂² by the formula in terms of covariances, and its gradient with respect to P.

    Rows sum to one, so that covariances are singular along (1, …, 1); taken on that vector's complement they are
    regular where there are more rows than columns, and there sqrtm has all its digits."""
    H = null_space(np.ones((1, P.shape[1])))
    X, Y = P @ H, T @ H
    n = len(X)
    E, F = X - X.mean(0), Y - Y.mean(0)
    C_X, C_Y = E.T @ E / (n - 1), F.T @ F / (n - 1)
    root = sqrtm(C_Y)
    cross = sqrtm(root @ C_X @ root)
    loss = ((P.mean(0) - T.mean(0)) ** 2).sum() + np.trace(C_X) + np.trace(C_Y) - 2 * np.trace(cross)
    by_covariance = np.eye(len(C_X)) - root @ np.linalg.inv(cross) @ root
    gradient = 2 * E @ by_covariance / (n - 1) + 2 / n * (X.mean(0) - Y.mean(0))
    return float(loss), gradient @ H.T


@every_backend
@pytest.mark.parametrize(
    ("Q", "N", "options"),
    [(30, 6, {}), (40, 12, {"temperature": 0.5}), (64, 8, {"target": "exp2", "label_temperature": 0.7}), (20, 3, {})],
)
def test_equals_the_formula_in_terms_of_covariances(Q: int, N: int, options: dict[str, Any], backend: str) -> None:
    scores, grades = problem(Q, N)
    grades[:, 0] = 3  # so that every row has a gain
    P = (scores / options.get("temperature", 1.0)).softmax(1)
    gains = {"softmax": grades.double().exp(), "exp2": grades.double().exp2() - 1}[options.get("target", "softmax")]
    want, by_P = bures(P.detach().numpy(), (gains / gains.sum(1, keepdim=True)).numpy())
    (want_gradient,) = torch.autograd.grad(P, scores, torch.from_numpy(by_P))
    loss, gradient = step(scores, grades, backend=backend, **options)
    assert abs(loss - want) <= 1e-10 * want
    assert (gradient - want_gradient).norm() <= 1e-10 * want_gradient.norm()


@every_backend
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("target", ["softmax", "linear", "exp2", "given", "given_own"])
@pytest.mark.parametrize("in_batch", [0, 2, None])
def test_gradient_equals_central_differences(in_batch: int | None, target: str, covariance: str, backend: str) -> None:
    scores, grades = problem(5, 15, seed=1, in_batch=True)
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(grades.shape, generator=generator) > 0.2
    given = torch.rand(scores.shape if target == "given" else grades.shape, generator=generator, dtype=torch.float64)
    options: dict[str, Any] = {
        "mask": mask,
        "in_batch": in_batch,
        "target": given if target.startswith("given") else target,
        "covariance": covariance,
        "backend": backend,
    }
    assert torch.autograd.gradcheck(lambda s: gaussian_wasserstein(s, grades, **options), scores)


@every_backend
def test_eps_gives_the_published_values(backend: str) -> None:
    scores, grades = problem(24, 96, seed=2, in_batch=True)
    want = published_distance(scores.softmax(1), dense(grades, scores).double().softmax(1))
    (want_gradient,) = torch.autograd.grad(want, scores)
    loss, gradient = step(scores, grades, eps=1e-15, backend=backend)
    torch.testing.assert_close(loss, want.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient, want_gradient, rtol=1e-5, atol=1e-9)
    exact = gaussian_wasserstein(scores, grades, backend=backend)
    assert loss < exact < loss + 2 * 24 * math.sqrt(1e-15)


@every_backend
def test_diagonal_is_a_distance_a_column(backend: str) -> None:
    scores, grades = problem(12, 7, seed=3)
    P, T = scores.detach().softmax(1), grades.double().softmax(1)
    want = (P.mean(0) - T.mean(0)).square().sum() + (P.std(0) - T.std(0)).square().sum()
    got = gaussian_wasserstein(scores, grades, covariance="diagonal", backend=backend)
    torch.testing.assert_close(got.detach(), want, rtol=1e-12, atol=0)


EDGES: dict[str, dict[str, Any]] = {
    "one query": {"Q": 1, "N": 7},
    "two queries": {"Q": 2, "N": 10},
    "three queries": {"Q": 3, "N": 12},
    "64 queries": {"Q": 64, "N": 192},
    "fewer passages than queries": {"Q": 12, "N": 4},
    "one passage": {"Q": 4, "N": 1},
    "duplicate rows": {"same": slice(0, 4)},
    "all rows the same": {"same": slice(None)},
    "all labels equal": {"label": 2},
    "scores of 1e4": {"spread": 1e4},
    "one-hot": {"spread": 1e4, "temperature": 1e-4},
    **{f"temperature {t:g}": {"temperature": t} for t in (1e-4, 1e-3, 1e-2, 1e-1, 10.0, 1e2)},
    **{f"label_temperature {t:g}": {"label_temperature": t} for t in (1e-3, 1e2)},
}


@every_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("edge", EDGES)
def test_finite_and_never_negative(edge: str, dtype: torch.dtype, backend: str) -> None:
    case = dict(EDGES[edge])
    Q, N = case.pop("Q", 8), case.pop("N", 24)
    for in_batch in (True, False):
        if in_batch and Q > N:
            continue
        scores, grades = problem(Q, N, seed=4, in_batch=in_batch, spread=case.get("spread", 1.0))
        scores = scores.detach().clamp(-1e4, 1e4)
        if "same" in case:
            scores[case["same"]] = scores[0].clone()
            grades[case["same"]] = grades[0].clone()
        if "label" in case:
            grades.fill_(case["label"])
        options = {name: value for name, value in case.items() if name.endswith("temperature")}
        for covariance in ("full", "diagonal"):
            scores = scores.to(dtype).requires_grad_()
            loss, gradient = step(scores, grades, covariance=covariance, backend=backend, **options)
            assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert gradient.dtype == dtype
            assert loss.isfinite()
            assert loss >= -1e-14
            assert gradient.isfinite().all()
            # ‖W‖ ≤ 1 bounds the gradient by the probabilities': |∂/∂P| ≤ 2f(‖E_P‖ + ‖E_T‖) + …, of order one.
            assert gradient.abs().max() <= 8 / options.get("temperature", 1.0)


@every_backend
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("Q", [1, 2, 9, 64])
def test_no_loss_and_no_gradient_where_p_is_t(Q: int, covariance: str, backend: str) -> None:
    _, grades = problem(Q, 4 * Q, seed=5, in_batch=True)
    scores = dense(grades, torch.empty(Q, 4 * Q)).double().requires_grad_()
    loss, gradient = step(scores, grades, covariance=covariance, backend=backend)
    assert abs(loss) < 1e-15
    assert gradient.norm() < 1e-9


@every_backend
def test_one_query_has_the_mean_term_alone(backend: str) -> None:
    scores, grades = problem(1, 9, seed=6)
    want = (scores.detach().softmax(1) - grades.double().softmax(1)).square().sum()
    for covariance in ("full", "diagonal"):
        loss = gaussian_wasserstein(scores, grades, covariance=covariance, backend=backend)
        torch.testing.assert_close(loss.detach(), want, rtol=1e-13, atol=0)


@every_backend
def test_exchanging_queries_changes_nothing(backend: str) -> None:
    """The documented limit: a batch in which every query is answered by another's passages has the same loss."""
    scores, grades = problem(8, 20, seed=7)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    loss, gradient = step(scores, grades, backend=backend)
    moved, moved_gradient = step(scores.detach()[order].requires_grad_(), grades, backend=backend)
    torch.testing.assert_close(moved, loss, rtol=1e-11, atol=0)
    torch.testing.assert_close(moved_gradient, gradient[order], rtol=1e-9, atol=1e-13)


@every_backend
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_padding_changes_nothing(covariance: str, backend: str) -> None:
    scores, grades = problem(6, 18, seed=8, in_batch=True)
    want = step(scores, grades, covariance=covariance, backend=backend)
    real = (torch.arange(5) < 3).expand(6, 5)
    wide = torch.full((6, 30), 7.0, dtype=torch.float64).masked_scatter(real.reshape(-1).expand(6, 30), scores.detach())
    labels = torch.full((6, 5), 3).masked_scatter(real, grades)
    options = {"mask": real, "covariance": covariance, "backend": backend}
    loss, gradient = step(wide.requires_grad_(), labels, **options)
    kept = real.reshape(-1)
    assert (gradient[:, ~kept] == 0).all()
    torch.testing.assert_close((loss, gradient[:, kept]), want, rtol=1e-12, atol=1e-16)


@every_backend
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_masks_and_impossible_scores_are_one_thing(covariance: str, backend: str) -> None:
    scores, grades = problem(6, 18, seed=9, in_batch=True)
    mask = torch.rand(6, 18, generator=torch.Generator().manual_seed(2)) > 0.3
    options = {"covariance": covariance, "backend": backend}
    masked = step(scores, grades, mask=mask, **options)
    impossible = step(scores.detach().masked_fill(~mask, -torch.inf).requires_grad_(), grades, **options)
    torch.testing.assert_close(masked, impossible, rtol=1e-13, atol=1e-16)
    assert (masked[1][~mask] == 0).all()


@every_backend
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_queries_with_nothing_are_no_samples(covariance: str, backend: str) -> None:
    scores, grades = problem(8, 12, seed=10)
    grades[:, 0] = 1
    none, no_gain = 2, 5
    mask = torch.ones_like(scores, dtype=torch.bool)
    mask[none] = False
    grades[no_gain] = 0
    others = [i for i in range(8) if i not in (none, no_gain)]
    options: dict[str, Any] = {"target": "linear", "covariance": covariance, "backend": backend}
    for eps in (0.0, 1e-4) if covariance == "full" else (0.0,):
        loss, gradient = step(scores, grades, mask=mask, eps=eps, **options)
        want = step(scores.detach()[others].requires_grad_(), grades[others], eps=eps, **options)
        torch.testing.assert_close((loss, gradient[others]), want, rtol=1e-12, atol=1e-16)
        assert (gradient[[none, no_gain]] == 0).all()
    loss, gradient = step(scores, grades, mask=torch.zeros_like(mask), **options)
    assert loss == 0
    assert (gradient == 0).all()


@every_backend
def test_an_empty_batch_has_loss_0(backend: str) -> None:
    for Q, K in ((0, 3), (3, 0)):
        scores = torch.zeros(Q, Q * K, requires_grad=True)
        loss, gradient = step(scores, torch.zeros(Q, K, dtype=torch.int64), backend=backend)
        assert loss == 0
        assert gradient.shape == scores.shape


@every_backend
def test_a_score_that_is_no_number_makes_loss_and_gradient_none(backend: str) -> None:
    for value in (math.nan, math.inf):
        scores, grades = problem(4, 12, seed=11, in_batch=True)
        with torch.no_grad():
            scores[1, 2] = value
        for covariance in ("full", "diagonal"):
            loss, gradient = step(scores, grades, covariance=covariance, backend=backend)
            assert loss.isnan()
            assert gradient.isnan().any()


@every_backend
def test_in_batch_labels_are_dense_labels(backend: str) -> None:
    scores, grades = problem(7, 28, seed=12, in_batch=True)
    options: dict[str, Any] = {"temperature": 0.3, "label_temperature": 0.6, "backend": backend}
    for labels in (grades, grades.float() - 0.5):
        own = step(scores, labels, in_batch=0, **options)
        torch.testing.assert_close(own, step(scores, dense(labels, scores), **options), rtol=1e-10, atol=1e-14)


@every_backend
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02])
def test_narrow_scores_lose_nothing_but_their_own_rounding(
    temperature: float, dtype: torch.dtype, backend: str
) -> None:
    scores, grades = problem(32, 128, seed=13, in_batch=True)
    narrow = scores.detach().to(dtype)
    want, want_gradient = step(narrow.double().requires_grad_(), grades, temperature=temperature, backend="torch")
    loss, gradient = step(narrow.requires_grad_(), grades, temperature=temperature, backend=backend)
    assert abs(loss - want) <= 1e-6 * want
    rounding = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    assert (gradient - want_gradient).norm() <= rounding * want_gradient.norm() + 1e-7


def test_second_derivatives_and_those_of_target_and_label_temperature() -> None:
    scores, grades = problem(4, 12, seed=14, in_batch=True)
    given = torch.rand(4, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    temperatures = torch.tensor([0.5, 1.0, 2.0, 0.7], dtype=torch.float64, requires_grad=True)
    for covariance in ("full", "diagonal"):

        def from_target(s: Tensor, T: Tensor) -> Tensor:
            return gaussian_wasserstein(s, grades, target=T, covariance=covariance, backend="torch")  # noqa: B023

        def from_temperatures(s: Tensor, t: Tensor) -> Tensor:
            return gaussian_wasserstein(s, grades, label_temperature=t, covariance=covariance, backend="torch")  # noqa: B023

        for function, other in ((from_target, given), (from_temperatures, temperatures)):
            assert torch.autograd.gradcheck(function, (scores, other))
            assert torch.autograd.gradgradcheck(function, (scores, other))


@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_nuclear_norm_where_singular_values_repeat_or_vanish(eps: float) -> None:
    """Where the norm is smooth: at repeated singular values, and in the null space as far as eps rounds the kink."""
    generator = torch.Generator().manual_seed(0)
    U, V = torch.linalg.qr(torch.randn(2, 5, 5, generator=generator, dtype=torch.float64))[0]
    noise = torch.tensor(1e-15, dtype=torch.float64)
    for values in ((2, 2, 2, 2, 2), (3, 3, 1, 1, 1e-4), (3, 2, 1, 0, 0)):
        sigma = torch.tensor(values, dtype=torch.float64)
        A = (U * sigma) @ V.T
        A.requires_grad_()
        value = nuclear_norm(A, noise, eps)
        torch.testing.assert_close(value.detach(), (sigma**2 + eps).sqrt().sum())
        (W,) = torch.autograd.grad(value, A)
        g = torch.where(sigma > 0, sigma / (sigma**2 + eps).clamp(min=1e-30).sqrt(), 0.0)
        torch.testing.assert_close(W, (U * g) @ V.T, rtol=1e-11, atol=1e-11)
        if eps or min(values) > 1e-3:
            assert torch.autograd.gradcheck(lambda X: nuclear_norm(X, noise, eps), A)
            assert torch.autograd.gradgradcheck(lambda X: nuclear_norm(X, noise, eps), A, atol=1e-4)


def test_target_mass_on_graded() -> None:
    scores, grades = problem(64, 256, seed=15, in_batch=True)
    T = dense(grades, scores).double().softmax(1)
    mass = target_mass_on_graded(scores, grades)
    torch.testing.assert_close(mass, T.masked_fill(dense(grades, scores) == 0, 0.0).sum(1))
    assert 0.05 < mass.mean() < 0.15  # the docstring's 89 % for the rest
    assert target_mass_on_graded(scores, grades, label_temperature=0.3).mean() > 0.6
    gains = target_mass_on_graded(scores, grades, target="linear")
    torch.testing.assert_close(gains, (grades.sum(1) > 0).double())
    assert (target_mass_on_graded(scores, grades, in_batch=None) >= mass).all()
    assert (target_mass_on_graded(scores, grades, above=2) <= mass).all()


def test_module_holds_the_options() -> None:
    scores, grades = problem(5, 15, seed=16, in_batch=True)
    options: dict[str, Any] = {"temperature": 0.2, "covariance": "diagonal", "target": "exp2"}
    loss_fn = GaussianWassersteinLoss(**options, backend="torch")
    assert torch.equal(loss_fn(scores, grades), gaussian_wasserstein(scores, grades, **options, backend="torch"))
    mask = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) > 0.3
    assert loss_fn(scores, grades, mask=mask) != loss_fn(scores, grades)
    with pytest.raises(TypeError, match="gaussian_wasserstein takes no weight: every query is one sample"):
        loss_fn(scores, grades, weight=torch.ones(5))


WRONG: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, r"labels \[3, 5\] do not fit scores \[3, 12\].*Q\*K=15", {"labels": torch.zeros(3, 5).long()}),
    (ValueError, "grade 8.*num_levels-1 = 7", {"labels": torch.full((3, 4), 8)}),
    (ValueError, "labels hold nan", {"labels": torch.full((3, 4), math.nan)}),
    (TypeError, r"got torch.int64.*scores.float\(\)", {"scores": torch.zeros(3, 12).long()}),
    (ValueError, "temperature must be a positive finite number, got 0", {"temperature": 0}),
    (ValueError, "label_temperature must be .*got -1", {"label_temperature": -1.0}),
    (ValueError, "target must be one of.*'gains'", {"target": "gains"}),
    (TypeError, "mask must be a bool tensor", {"mask": torch.ones(3, 4)}),
    (ValueError, "in_batch must be a grade", {"in_batch": 9}),
    (ValueError, "covariance must be one of .*'full', 'diagonal'.*got 'spherical'", {"covariance": "spherical"}),
    (ValueError, "eps must be a finite number >= 0, got -1", {"eps": -1.0}),
    (ValueError, "eps=1e-15 is for covariance='full'", {"eps": 1e-15, "covariance": "diagonal"}),
    (TypeError, "takes no weight: every query is one sample", {"weight": torch.ones(3)}),
    (TypeError, "takes no reduction: .* no loss a query", {"reduction": "none"}),
    (TypeError, "takes no offsets: .* no columns in common", {"offsets": torch.tensor([0, 12])}),
    (TypeError, "has no argument 'wieght'", {"wieght": torch.ones(3)}),
    (ValueError, "row 0 sums to 4, not to 1", {"target": torch.ones(3, 4), "validate": True}),
]


@every_backend
@pytest.mark.parametrize(("error", "says", "arguments"), WRONG)
def test_wrong_call_is_refused(error: type[Exception], says: str, arguments: dict[str, Any], backend: str) -> None:
    call: dict[str, Any] = {"scores": torch.zeros(3, 12), "labels": torch.zeros(3, 4).long(), "backend": backend}
    with pytest.raises(error, match=says):
        gaussian_wasserstein(**call | arguments)


def test_what_a_fused_backend_cannot_do_is_refused_and_auto_says_once_what_it_takes() -> None:
    scores, grades = problem(3, 12, seed=17, in_batch=True)
    target = torch.ones(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match="backend='native' cannot do this: target asks for a gradient"):
        gaussian_wasserstein(scores, grades, target=target, backend="native")
    say_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="plain-torch backend: target asks for a gradient"):
        gaussian_wasserstein(scores, grades, target=target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gaussian_wasserstein(scores, grades, target=target)
        gaussian_wasserstein(scores, grades)


# Every form the tiles have: labels own or dense, T written out or not, masks of both shapes, others left out.
FORMS: dict[str, dict[str, Any]] = {
    "own": {},
    "own masked": {"mask": "labels", "target": "exp2"},
    "own excluded": {"in_batch": None, "mask": "labels"},
    "own given": {"target": "given own", "mask": "labels"},
    "own, row mask": {"mask": "scores", "in_batch": 1},
    "own excluded, row mask": {"mask": "scores", "in_batch": None, "target": "linear"},
    "own, given to all": {"target": "given", "mask": "labels"},
    "own given, row mask": {"target": "given own", "mask": "scores"},
    "own, impossible": {"impossible": True, "mask": "labels"},
    "own floats": {"floats": True, "in_batch": 0.25, "label_temperatures": True},
    "dense": {"dense": True, "label_temperatures": True},
    "dense masked": {"dense": True, "mask": "scores", "target": "linear"},
    "dense floats given": {"dense": True, "floats": True, "target": "given", "impossible": True},
}


def form(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """17 queries of 9 passages: with tiles of 400 elements, two blocks a tile and one in the last."""
    asked = dict(FORMS[name])
    Q, K = 17, 9
    generator = torch.Generator().manual_seed(20)
    scores, labels = problem(Q, Q * K, seed=21, in_batch=not asked.pop("dense", False))
    scores = scores.detach()
    if asked.pop("floats", False):
        labels = labels + torch.rand(labels.shape, generator=generator)
    if asked.pop("impossible", False):
        scores[2, 5] = -torch.inf
    if "mask" in asked:
        shape = labels.shape if asked["mask"] == "labels" else scores.shape
        asked["mask"] = torch.rand(shape, generator=generator) > 0.3
    if asked.get("target", "").startswith("given"):
        shape = labels.shape if asked["target"] == "given own" else scores.shape
        asked["target"] = torch.rand(shape, generator=generator, dtype=torch.float64)
    if asked.pop("label_temperatures", False):
        asked["label_temperature"] = 0.5 + torch.rand(Q, generator=generator, dtype=torch.float64)
    return scores.to(dtype).requires_grad_(), labels, asked


@pytest.mark.parametrize("tile", [400, distance.CPU_TILE])
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_tiles_is_the_reference(
    name: str, covariance: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "CPU_TILE", tile)
    scores, labels, options = form(name)
    options |= {"temperature": 0.7, "covariance": covariance}
    want = step(scores, labels, backend="torch", **options)
    before = scores.detach().clone(), labels.clone()
    got = step(scores, labels, backend="native", **options)
    assert abs(got[0] - want[0]) <= 1e-11 * want[0]
    assert (got[1] - want[1]).norm() <= 1e-11 * want[1].norm()
    assert torch.equal(scores, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("name", FORMS)
def test_a_gpu_need_not_be_asked_for_its_flag(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As distance.py does it there: the passes look at the flag."""
    monkeypatch.setattr(distance, "_in_blocks", lambda a, *_: a.blocks)
    monkeypatch.setattr(distance, "_unknown", lambda flag: flag)
    a = arguments_of_form(name)
    scores, labels, options = form(name)
    want = step(scores, labels, backend="torch", **options)
    a = a._replace(scores=scores.detach())
    loss, kept = distance.forward(PlainPasses(a, 0), a)
    gradient = torch.empty_like(a.scores)
    distance.backward(PlainPasses(a, 0), a, kept, torch.ones_like(loss), gradient)
    assert abs(loss - want[0]) <= 1e-11 * want[0]
    assert (gradient - want[1]).norm() <= 1e-11 * want[1].norm()


def arguments_of_form(name: str, dtype: torch.dtype = torch.float64) -> Arguments:
    scores, labels, options = form(name, dtype)
    target, mask, temperatures = options.get("target"), options.get("mask"), options.get("label_temperature")
    if mask is not None and mask.shape != scores.shape:
        mask = mask.reshape(-1)
    return Arguments(
        scores,
        labels,
        target if isinstance(target, Tensor) else None,
        mask,
        temperatures,
        inputs.TARGETS["given" if isinstance(target, Tensor) else target or "softmax"],
        options.get("in_batch", 0.0),
        None if labels.is_floating_point() else 8,
    )


@pytest.mark.parametrize("name", FORMS)
def test_opcheck(name: str) -> None:
    a = arguments_of_form(name)
    for diagonal in (False, True):
        a = a._replace(diagonal=diagonal)
        torch.library.opcheck(torch.ops.wassrank.gaussian_wasserstein.default, tuple(a))
        fixed = a._replace(scores=a.scores.detach())
        loss, *kept = torch.ops.wassrank.gaussian_wasserstein.default(*fixed)
        backward = (torch.ones_like(loss), *fixed[:5], *kept, *fixed[5:])
        torch.library.opcheck(torch.ops.wassrank.gaussian_wasserstein_backward.default, backward)


def test_compiles_without_a_graph_break_and_a_second_backward_is_the_first() -> None:
    scores, grades = problem(7, 35, seed=22, in_batch=True)

    def loss(s: Tensor) -> Tensor:
        return gaussian_wasserstein(2 * s, grades, temperature=0.5).exp()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True)
    value = loss(scores)
    first, second = (torch.autograd.grad(value, scores, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(torch.autograd.grad(compiled(scores), scores)[0], first)


@pytest.mark.parametrize(
    "sigma",
    [
        torch.linspace(1, 2, 40),
        torch.logspace(0, -12, 40),
        torch.logspace(0, -6, 40),
        torch.cat([torch.ones(30), torch.zeros(10)]),
        torch.cat([torch.linspace(0.5, 1, 30), torch.logspace(-4, -10, 8), torch.zeros(2)]),
        torch.cat([torch.full((20,), 1.0), torch.full((20,), 1e-3)]),
        torch.zeros(40),
    ],
    ids=["regular", "steep", "less steep", "deficient", "small and none", "at the split", "zero"],
)
@pytest.mark.parametrize("rotated", [True, False], ids=["rotated", "LAPACK"])
def test_split_svd_gives_the_polar_factor(sigma: Tensor, rotated: bool) -> None:
    def split(A: Tensor, noise: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        if rotated:
            return norm_and_factor(A, noise, eps)
        return norm_and_polar_factor(split_svd(A, noise), noise, eps)

    generator = torch.Generator().manual_seed(1)
    U, V = torch.linalg.qr(torch.randn(2, 40, 40, generator=generator, dtype=torch.float64))[0]
    sigma = sigma.double()
    A, noise = (U * sigma) @ V.T, torch.tensor(1e-15, dtype=torch.float64)
    norm, W = split(A, noise, 0.0)
    assert abs(norm - sigma.sum()) <= 1e-13
    g = (sigma > 0).double()
    # A itself holds singular values to 1e-16, and so their vectors to 1e-16 / σ.
    error = U.T @ (W - (U * g) @ V.T) @ V
    scale = torch.maximum(sigma[:, None], sigma) + 1e-16
    assert (error * scale).abs().max() <= 1e-12
    norm, _ = split(A, noise, 1e-2)
    assert abs(norm - (sigma.square() + 1e-2).sqrt().sum()) <= 1e-12


def test_memory_is_that_of_tiles_and_small_matrices() -> None:
    """With [Q, K] labels nothing grows as Q·N but the scores' gradient."""
    Q, N = 32, 65536
    scores = torch.randn(Q, N, requires_grad=True)
    grades = torch.zeros(Q, N // Q, dtype=torch.int64).random_(0, 4)
    gaussian_wasserstein(scores, grades, backend="native").backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        loss = gaussian_wasserstein(scores, grades, backend="native")
        (gradient,) = torch.autograd.grad(loss, scores)
    live = peak = 0
    for event in sorted((e for e in trace.events() if e.name == "[memory]"), key=lambda e: e.time_range.start):
        live += event.cpu_memory_usage
        peak = max(peak, live)
    small = 40 * Q * N // Q * 8  # of passages [N], a few
    assert peak <= gradient.nbytes + 8 * distance.CPU_TILE * 8 + small
