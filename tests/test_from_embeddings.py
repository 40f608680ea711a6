"""Losses from embeddings: each is the loss of the scores that the embeddings have, and so are its gradients.

The oracle is the loss of stored scores in plain torch, float64, with autograd through the product (and through the
normalisation, and the temperature).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import test_conformance as conformance
import torch
from cases import CASES, Case
from test_gaussian_wasserstein import FORMS, form
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import wassrank
from wassrank.embeddings import gaussian, tiles
from wassrank.embeddings.arguments import TENSORS, Arguments
from wassrank.embeddings.native_tiles import NativeTiles
from wassrank.embeddings.plain_tiles import PlainTiles
from wassrank.ops import gaussian_wasserstein_from_embeddings as gaussian_operators
from wassrank.ops.of_embeddings import LEAVES
from wassrank.processes.passages import Here
from wassrank.processes.world import Alone

every_backend = pytest.mark.parametrize("backend", ["native", "torch"])
TILES = {"one tile": None, "many tiles": (2, 7)}
every_tile = pytest.mark.parametrize("tile", TILES.values(), ids=TILES)

LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    name: (getattr(wassrank, name), getattr(wassrank, f"{name}_from_embeddings"))
    for name in ("grade_wasserstein", "info_nce", "listwise_kl", "combined_loss", "gaussian_wasserstein")
}


def served(case: Case) -> bool:
    """Whether the case is one from embeddings: rows of integer grades, and scores that are finite."""
    scores, labels, _ = case.make(torch.float32)
    return not case.packed and not labels.is_floating_point() and bool(scores.isfinite().all()) and scores.numel() > 0


SERVED = [case for case in CASES if served(case) and case.queries * case.K * case.queries <= 4096]


def step(loss: Callable[..., Tensor], *leaves: Tensor, **options: Any) -> list[Tensor]:
    """The loss and its gradients, of all its elements with different weights."""
    value = loss(*leaves, **options)
    upstream = torch.linspace(0.5, 1.5, max(value.numel(), 1), dtype=value.dtype).reshape(value.shape)
    gradients = torch.autograd.grad(value, [t for t in leaves if t.requires_grad], upstream)
    return [value.detach().double(), *(g.double() for g in gradients)]


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [*(("native", dtype) for dtype in conformance.DTYPES), ("torch", torch.float64), ("torch", torch.bfloat16)],
    ids=lambda x: str(x).removeprefix("torch."),
)
@pytest.mark.parametrize("case", SERVED, ids=lambda c: c.name)
def test_the_conformance_table(case: Case, backend: str, dtype: torch.dtype) -> None:
    """With the scores for queries and a passage for each column, the products are the scores, exactly."""
    scores, labels, options = case.make(dtype)
    stored, of_embeddings = LOSSES[case.loss]
    many = (2, 5) if backend == "native" else None
    unit = torch.eye(scores.shape[1], dtype=torch.float64)

    def loss_of_scores(q: Tensor, p: Tensor) -> Tensor:
        return stored(q @ p.T, labels, backend="torch", **options)

    want = step(loss_of_scores, scores.double().requires_grad_(), unit.requires_grad_())
    for tile in (None, many):
        leaves = scores.clone().requires_grad_(), unit.detach().to(dtype).requires_grad_()

        def loss_of_embeddings(q: Tensor, p: Tensor, tile: tuple[int, int] | None = tile) -> Tensor:
            return of_embeddings(q, p, labels, backend=backend, tile=tile, **options)

        got = step(loss_of_embeddings, *leaves)
        floor, gradient_floor = conformance.FLOOR[dtype], conformance.GRADIENT_FLOOR[dtype]
        conformance.assert_close(got[0], want[0], conformance.LOSS_TOLERANCE[dtype], floor * want[0].numel() ** 0.5)
        for one, other in zip(got[1:], want[1:], strict=True):
            size = max(1.0, float(scores.detach().abs().max()))  # the passages' gradient is multiplied by queries
            one = torch.where(other.to(dtype).isinf() & one.isinf(), other, one)  # what the type cannot hold
            conformance.assert_close(one, other, conformance.GRADIENT_TOLERANCE[dtype], gradient_floor * size)


def embeddings(Q: int, K: int, d: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, p = (torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype) for n in (Q, Q * K))
    return q.requires_grad_(), p.requires_grad_()


def grades(Q: int, K: int, dense: bool = False, seed: int = 1) -> Tensor:
    return torch.randint(0, 4, (Q, Q * K if dense else K), generator=torch.Generator().manual_seed(seed))


Q, K = 6, 4
PAIRS = [(0, 5), (2, 10), (2, 9), (5, 0)]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "grade_wasserstein": ("grade_wasserstein", {}),
    "p = 2.5, linear": ("grade_wasserstein", {"p": 2.5, "target": "linear", "reduction": "none"}),
    "dense": ("grade_wasserstein", {"dense": True, "weight": True}),
    "own passages alone": ("grade_wasserstein", {"in_batch": None}),
    "pairs left out": ("grade_wasserstein", {"exclude": "pairs", "target": "exp2"}),
    "left out by a mask": ("listwise_kl", {"exclude": "bool"}),
    "dense, pairs left out": ("listwise_kl", {"exclude": "pairs", "dense": True}),
    "info_nce": ("info_nce", {}),
    "named positives": ("info_nce", {"positives": True, "exclude": "pairs"}),
    "negative_grade": ("info_nce", {"negative_grade": 1, "mask": "own"}),
    "negative_grade, pairs": ("info_nce", {"negative_grade": 1, "exclude": "pairs"}),
    "negative_grade, bool": ("info_nce", {"negative_grade": 1, "exclude": "bool"}),
    "negative_grade, dense": ("info_nce", {"negative_grade": 1, "dense": True, "exclude": "pairs"}),
    "negative_grade, named": ("info_nce", {"negative_grade": 0, "positives": True}),
    "symmetric": ("info_nce", {"symmetric": True, "mask": "own", "weight": True}),
    "symmetric, named": ("info_nce", {"symmetric": True, "positives": True}),
    "float labels": ("info_nce", {"floats": True, "in_batch": None}),
    "dense float labels": ("info_nce", {"floats": True, "dense": True, "exclude": "pairs"}),
    "row mask": ("listwise_kl", {"mask": "all"}),
    "given to own": ("listwise_kl", {"target": "own"}),
    "given to all": ("combined_loss", {"target": "all", "in_batch": 2, "kl": 0.5}),
    "a sum": ("combined_loss", {"info_nce": 0.5, "kl": 0.3, "label_temperature": True}),
    "gaussian": ("gaussian_wasserstein", {}),
    "gaussian, diagonal": ("gaussian_wasserstein", {"covariance": "diagonal", "mask": "own"}),
    "gaussian, dense": ("gaussian_wasserstein", {"dense": True, "target": "linear"}),
    "gaussian, pairs left out": ("gaussian_wasserstein", {"exclude": "pairs"}),
    "gaussian, float labels": ("gaussian_wasserstein", {"floats": True, "in_batch": 0.25, "label_temperature": True}),
}


def call(name: str) -> tuple[str, Tensor, dict[str, Any], Tensor | None]:
    """The loss, labels, options, and what to leave out, [Q, N] True where left out."""
    loss, asked = CALLS[name]
    asked = dict(asked)
    generator = torch.Generator().manual_seed(len(name))

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    labels = grades(Q, K, asked.pop("dense", False))
    if asked.pop("floats", False):
        labels = labels + random(*labels.shape)
    left_out = None
    if "exclude" in asked:
        left_out = torch.zeros(Q, Q * K, dtype=torch.bool)
        for query, passage in PAIRS:
            left_out[query, passage] = True
        asked["exclude"] = PAIRS if asked["exclude"] == "pairs" else left_out
    if "mask" in asked:
        asked["mask"] = random(*(labels.shape if asked["mask"] == "own" else (Q, Q * K))) > 0.2
    if asked.get("target") in ("own", "all"):
        asked["target"] = random(*(labels.shape if asked["target"] == "own" else (Q, Q * K)))
    for one_a_query in ("weight", "label_temperature"):
        if one_a_query in asked:
            asked[one_a_query] = 0.3 + random(Q)
    if "positives" in asked:
        asked["positives"] = torch.tensor([0, 1, 2, 3, -1, 9])
    return loss, labels, asked, left_out


def of_scores(name: str, similarity: str) -> Callable[..., Tensor]:
    """The loss of stored scores, from embeddings and temperature."""
    loss, labels, options, left_out = call(name)
    options.pop("exclude", None)
    if left_out is not None:
        mask = options.get("mask", torch.ones(labels.shape, dtype=torch.bool))
        options["mask"] = ~left_out & (mask if mask.shape == left_out.shape else mask.reshape(-1))

    def compute(q: Tensor, p: Tensor, t: Tensor) -> Tensor:
        if similarity == "cosine":
            q, p = (torch.nn.functional.normalize(x, dim=1) for x in (q, p))
        return LOSSES[loss][0](q @ p.T / t, labels, backend="torch", **options)

    return compute


@every_backend
@every_tile
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("name", CALLS)
def test_the_loss_of_scores_and_all_gradients(
    name: str, similarity: str, tile: tuple[int, int] | None, backend: str
) -> None:
    """With respect to queries, passages and temperature."""
    loss, labels, options, _ = call(name)
    q, p = embeddings(Q, K)
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    want = step(of_scores(name, similarity), q, p, temperature)
    options |= {"similarity": similarity, "tile": tile, "backend": backend}

    def of_embeddings(q: Tensor, p: Tensor, t: Tensor | float) -> Tensor:
        return LOSSES[loss][1](q, p, labels, temperature=t, **options)

    got = step(of_embeddings, q, p, temperature)
    for one, other in zip(got, want, strict=True):
        conformance.assert_close(one, other, 1e-10, 1e-13)
    fixed = step(lambda q, p: of_embeddings(q, p, 0.7), q, p)
    for one, other in zip(fixed, got[:3], strict=True):
        conformance.assert_close(one, other, 1e-12, 1e-14)


@every_backend
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_gaussian_loss(name: str, covariance: str, backend: str) -> None:
    scores, labels, options = form(name)
    scores = scores.detach().nan_to_num(neginf=-3.0)
    options |= {"covariance": covariance, "temperature": 0.7}
    unit = torch.eye(scores.shape[1], dtype=torch.float64)
    leaves = scores.requires_grad_(), unit.requires_grad_()
    stored, of_embeddings = LOSSES["gaussian_wasserstein"]
    want = step(lambda q, p: stored(q @ p.T, labels, backend="torch", **options), *leaves)
    for tile in (None, (4, 1)):
        got = step(lambda q, p: of_embeddings(q, p, labels, backend=backend, tile=tile, **options), *leaves)  # noqa: B023
        for one, other in zip(got, want, strict=True):
            conformance.assert_close(one, other, 1e-10, 1e-13)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["grade_wasserstein", "info_nce", "a sum", "gaussian"])
def test_half_precision_is_summed_in_float32(name: str, dtype: torch.dtype, backend: str) -> None:
    """Loss to float32's rounding, gradients to that of their own type: what torch's own products of halves have in
    error is many times that."""
    loss, labels, options, _ = call(name)
    q, p = (x.detach() for x in embeddings(Q, K, d=48, dtype=dtype))
    t = torch.tensor(2.0, dtype=torch.float64)
    want = step(of_scores(name, "cosine"), q.double().requires_grad_(), p.double().requires_grad_(), t)
    options |= {"similarity": "cosine", "backend": backend, "temperature": 2.0}
    got = step(
        lambda q, p: LOSSES[loss][1](q, p, labels, **options), q.clone().requires_grad_(), p.clone().requires_grad_()
    )
    conformance.assert_close(got[0], want[0], 1e-5 if loss == "gaussian_wasserstein" else 1e-6, 2e-7)
    rounding = torch.finfo(dtype).eps if dtype != torch.float32 else (1e-3 if "gaussian" in loss else 1e-5)
    for one, other in zip(got[1:], want[1:], strict=True):
        conformance.assert_close(one, other, rounding, conformance.GRADIENT_FLOOR[dtype])


@every_backend
@pytest.mark.parametrize("loss", LOSSES)
def test_a_zero_vector_has_score_0_and_gradient_0(loss: str, backend: str) -> None:
    q, p = embeddings(Q, K)
    with torch.no_grad():
        q[1] = p[3] = 0
    labels = grades(Q, K)
    value, of_q, of_p = step(
        lambda q, p: LOSSES[loss][1](q, p, labels, similarity="cosine", temperature=0.1, backend=backend), q, p
    )
    unit_q, unit_p = (torch.nn.functional.normalize(x, dim=1) for x in (q, p))
    scores = (unit_q @ unit_p.T).detach()
    torch.testing.assert_close(value, LOSSES[loss][0](scores, labels, temperature=0.1, backend="torch"))
    assert (of_q[1] == 0).all()
    assert (of_p[3] == 0).all()
    assert of_q.isfinite().all()
    assert of_p.isfinite().all()


@every_backend
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("Q", "K"), [(1, 3), (2, 1), (0, 3), (3, 0)])
def test_any_number_of_queries_and_of_passages(Q: int, K: int, loss: str, backend: str) -> None:
    q, p = embeddings(Q, K)
    labels = grades(Q, K)
    want = step(lambda q, p: LOSSES[loss][0](q @ p.T, labels, backend="torch"), q, p)
    got = step(lambda q, p: LOSSES[loss][1](q, p, labels, backend=backend), q, p)
    for one, other in zip(got, want, strict=True):
        conformance.assert_close(one, other, 1e-10, 1e-13)


@every_backend
@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_bits_each_time_and_inputs_are_left_alone(loss: str, backend: str) -> None:
    q, p = embeddings(40, 3, d=16, dtype=torch.float32)
    labels = grades(40, 3)
    before = q.detach().clone(), p.detach().clone()
    value = LOSSES[loss][1](q, p, labels, similarity="cosine", tile=(7, 11), backend=backend)
    first, second = (torch.autograd.grad(value, (q, p), retain_graph=True) for _ in range(2))
    again = LOSSES[loss][1](q, p, labels, similarity="cosine", tile=(7, 11), backend=backend)
    third = torch.autograd.grad(again, (q, p))
    assert torch.equal(value, again)
    for one, two, three in zip(first, second, third, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    for now, then in zip((q, p), before, strict=True):
        assert torch.equal(now, then)


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation of torch makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for output in outputs if isinstance(outputs, (tuple, list)) else (outputs,):
            if isinstance(output, Tensor) and output.storage_offset() == 0:
                self.numel = max(self.numel, output.untyped_storage().nbytes() // output.element_size())
        return outputs


def arguments(**others: Any) -> Arguments:
    """Of 128 queries with two passages each."""
    q, p = embeddings(128, 2, d=8, dtype=torch.float32)
    return Arguments(q.detach(), p.detach(), None, grades(128, 2), **others)


@pytest.mark.parametrize("of", [NativeTiles, PlainTiles], ids=["native", "torch"])
def test_nothing_as_large_as_the_scores_is_ever_made(of: Any) -> None:
    """Tiles, embeddings' gradients, and some numbers a row."""
    a = arguments(tile_rows=16, tile_columns=32, kl=0.5)
    with Largest() as largest:
        one = of(a, 256, 0) if of is PlainTiles else of(a, 256, 0, None)
        _, _, state = tiles.statistics(one, a, Here(a.passages), 0)
        back = of(a, 256, 0) if of is PlainTiles else of(a, 256, 0, state)
        tiles.gradients(back, a, Here(a.passages), 0, state, torch.ones(128))
    per_row = 128 * (4 + 4 * 9)  # the sums of a row
    assert largest.numel <= max(per_row, 256 * 8)
    assert per_row < 128 * 256 / 4


def test_the_gaussian_loss_makes_nothing_as_large_as_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian, "CPU_CHUNK", 16 * 1024)
    q, p = embeddings(64, 16, d=8, dtype=torch.float32)
    a = gaussian_operators.Arguments(
        q.detach(), p.detach(), None, grades(64, 16), None, None, None, None, False, 0, 0, 0.0, 8, 1.0, 1.0, False, 0.0
    )
    forward, backward = gaussian_operators._steps("native", Alone(), Here, 64)
    with Largest() as largest:
        loss, *kept = forward(a)
        backward(a, torch.ones_like(loss), *kept)
    assert largest.numel <= 2 * 16 * 1024 < 64 * 1024


def test_tiles_off_the_diagonal_are_not_computed_where_nobody_else_takes_part() -> None:
    computed = 0

    class Counting(PlainTiles):
        def gather(self, scores: Tensor, row: int, column: int) -> None:
            nonlocal computed
            computed += scores.numel()
            super().gather(scores, row, column)

    a = arguments(in_batch=-1, tile_rows=8, tile_columns=16)
    tiles.statistics(Counting(a, 256, 0), a, Here(a.passages), 0)
    assert computed == 128 * 16  # of 128 · 256


def test_opcheck() -> None:
    a = arguments(mask=torch.rand(256) > 0.2, kl=0.3, cosine=True)
    a = a._replace(learned=torch.tensor(0.5), exclude=torch.tensor(PAIRS))
    operators = torch.ops.wassrank
    leaves = (t.requires_grad_() if isinstance(t, Tensor) else t for t in a[:LEAVES])
    torch.library.opcheck(operators.level_losses_from_embeddings.default, (*leaves, *a[LEAVES:]))
    fixed = [t.detach() if isinstance(t, Tensor) else t for t in a]
    loss, state, scale = operators.level_losses_from_embeddings.default(*fixed)
    backward = (torch.ones_like(loss), *fixed[:TENSORS], state, scale, *fixed[TENSORS:])
    torch.library.opcheck(operators.level_losses_from_embeddings_backward.default, backward)


def test_opcheck_of_the_gaussian_loss() -> None:
    q, p = (x.detach() for x in embeddings(Q, K))
    rest: tuple[Any, ...] = (False, 0, 0, 0.0, 8, 1.0, 1.0, False, 0.0)
    given: tuple[Any, ...] = (q, p, torch.tensor(0.5, dtype=torch.float64), grades(Q, K), None, None, None, None)
    operators = torch.ops.wassrank
    torch.library.opcheck(operators.gaussian_wasserstein_from_embeddings.default, (*given, *rest))
    loss, *kept = operators.gaussian_wasserstein_from_embeddings.default(*given, *rest)
    backward = (torch.ones_like(loss), *given, *kept, *rest)
    torch.library.opcheck(operators.gaussian_wasserstein_from_embeddings_backward.default, backward)


@pytest.mark.parametrize("loss", LOSSES)
def test_compiles_without_a_graph_break(loss: str) -> None:
    q, p = embeddings(Q, K)
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    labels = grades(Q, K)

    def compute(q: Tensor, p: Tensor, t: Tensor) -> Tensor:
        return LOSSES[loss][1](2 * q, p, labels, similarity="cosine", temperature=t.exp()).square()

    torch._dynamo.reset()
    want = step(compute, q, p, t)
    got = step(torch.compile(compute, fullgraph=True), q, p, t)
    for one, other in zip(got, want, strict=True):
        conformance.assert_close(one, other, 1e-12, 1e-15)


def test_gradients_are_the_central_differences() -> None:
    q, p = embeddings(3, 2)
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    labels = grades(3, 2)
    for loss in ("info_nce", "listwise_kl", "gaussian_wasserstein"):  # grade_wasserstein has kinks

        def compute(q: Tensor, p: Tensor, t: Tensor, loss: str = loss) -> Tensor:
            return LOSSES[loss][1](q, p, labels, similarity="cosine", temperature=t)

        assert torch.autograd.gradcheck(compute, (q, p, t))


def test_only_the_gradients_that_are_asked_for_are_there() -> None:
    q, p = embeddings(Q, K)
    loss = wassrank.info_nce_from_embeddings(q, p.detach(), grades(Q, K))
    assert torch.autograd.grad(loss, q)[0].shape == q.shape
    assert not wassrank.info_nce_from_embeddings(q.detach(), p.detach(), grades(Q, K)).requires_grad
    with pytest.raises(NotImplementedError, match="differentiable once"):
        torch.autograd.grad(
            torch.autograd.grad(wassrank.info_nce_from_embeddings(q, p, grades(Q, K)), q, create_graph=True)[0].sum(), q
        )


@pytest.mark.parametrize(
    ("module", "loss"),
    [
        (wassrank.GradeWassersteinLoss(p=2, temperature=0.3, target="linear"), "grade_wasserstein"),
        (wassrank.GaussianWassersteinLoss(temperature=0.3, covariance="diagonal"), "gaussian_wasserstein"),
        (wassrank.InfoNCELoss(temperature=0.3, negative_grade=1), "info_nce"),
        (wassrank.ListwiseKLLoss(temperature=0.3), "listwise_kl"),
        (wassrank.CombinedLoss(temperature=0.3, kl=0.2), "combined_loss"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_modules_take_embeddings_too(module: Any, loss: str) -> None:
    q, p = embeddings(Q, K)
    labels, mask = grades(Q, K), torch.rand(Q, K, generator=torch.Generator().manual_seed(2)) > 0.2
    want = module(q @ p.T, labels, mask=mask)
    torch.testing.assert_close(module.from_embeddings(q, p, labels, mask=mask), want)
    other = module.from_embeddings(q, p, labels, similarity="cosine", temperature=1.0, exclude=PAIRS)
    assert other.isfinite()
    assert other != want


BAD: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "queries a list": (TypeError, "queries must be a tensor of embeddings", {"queries": [[1.0]]}),
    "integers": (
        TypeError,
        "passages must be float64, .* integers have no gradient",
        {"passages": torch.ones(24, 5).long()},
    ),
    "one dimension": (ValueError, r"queries must be \[Q, d\]", {"queries": torch.ones(6)}),
    "other widths": (ValueError, "must be of one width d", {"passages": torch.ones(24, 4, dtype=torch.float64)}),
    "other dtypes": (TypeError, "convert one of them", {"passages": torch.ones(24, 5)}),
    "N no multiple": (ValueError, r"N must be K=4 .* or Q\*K=24", {"passages": torch.ones(25, 5, dtype=torch.float64)}),
    "similarity": (ValueError, "similarity must be one of", {"similarity": "l2"}),
    "temperature 0": (ValueError, "temperature must be a positive", {"temperature": torch.tensor(0.0)}),
    "temperatures": (TypeError, "learnable temperature must be", {"temperature": torch.ones(6)}),
    "tile of nothing": (ValueError, "two numbers > 0", {"tile": (0, 5)}),
    "tile too large": (ValueError, "GiB and cpu has", {"tile": (1 << 24, 1 << 24)}),
    "exclude's shape": (TypeError, r"exclude must be bool \[6, 24\]", {"exclude": torch.zeros(6, 4, dtype=torch.bool)}),
    "pair outside": (ValueError, r"pair \(6, 0\)", {"exclude": [(6, 0)]}),
    "gather": (ValueError, "gather must be False", {"gather": "rong"}),
    "stray grade": (ValueError, "labels hold grade 9", {"labels": torch.full((6, 4), 9)}),
    "offsets": (TypeError, "offsets", {"offsets": torch.arange(7)}),
    "backend": (ValueError, "backend must be", {"backend": "cuda"}),
}


@pytest.mark.parametrize("loss", ["grade_wasserstein", "gaussian_wasserstein"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(name: str, loss: str) -> None:
    error, text, wrong = BAD[name]
    q, p = embeddings(Q, K)
    given: dict[str, Any] = {"queries": q, "passages": p, "labels": grades(Q, K)} | wrong
    with pytest.raises(error, match=text):
        LOSSES[loss][1](**given)


@every_backend
def test_what_asks_for_stored_scores_is_said(backend: str) -> None:
    q, p = embeddings(Q, K)
    labels = grades(Q, K)
    with pytest.raises(TypeError, match="from embeddings labels must be integer grades"):
        wassrank.grade_wasserstein_from_embeddings(q, p, labels.double(), backend=backend)
    with pytest.raises(ValueError, match="target asks for a gradient"):
        wassrank.listwise_kl_from_embeddings(
            q, p, labels, target=torch.rand(Q, K, dtype=torch.float64, requires_grad=True), backend=backend
        )
    with pytest.raises(ValueError, match="negative_grade leaves out passages that the other losses"):
        wassrank.combined_loss_from_embeddings(q, p, labels, kl=1.0, info_nce=1.0, negative_grade=1, backend=backend)


def test_infinite_embeddings_make_the_loss_none() -> None:
    q, p = embeddings(Q, K)
    with torch.no_grad():
        q[2, 0] = math.inf
    value = wassrank.grade_wasserstein_from_embeddings(q, p, grades(Q, K), reduction="none")
    assert value[2].isnan()
    assert value[torch.arange(Q) != 2].isfinite().all()
