"""The batch-Gaussian loss's Triton kernels: each pass against plain torch's, then the loss. In the interpreter where
there is no GPU, as test_triton.py."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import test_gaussian_wasserstein as gaussian
import test_triton
import torch
from test_gaussian_wasserstein import DTYPES, FORMS, form, step
from test_triton import INTERPRETED, Guards, Holes, once_outside, run_in_the_interpreter, run_last
from torch import Tensor

from wassrank import gaussian_wasserstein
from wassrank.codes import Target
from wassrank.gaussian.passes import Arguments, Row, Turned
from wassrank.gaussian.plain_passes import PlainPasses
from wassrank.ops import inputs

pytestmark = test_triton.pytestmark
device = test_triton.device

WRITES = {
    "gaussian_rows_kernel": {"state", "excess"},
    "gaussian_moments_kernel": {"moments"},
    "gaussian_products_kernel": {"sums", "products"},
    "gaussian_tiles_kernel": {"tile_P", "tile_E_T"},
    "gaussian_along_kernel": {"along"},
    "gaussian_gradient_kernel": {"gradient"},
}
TILES: dict[str, dict[str, int]] = {
    "as on a GPU": {},
    "tiny": {"a_lane": 2, "max_warps": 1, "moment_rows": 4, "moment_columns": 8},
}
every_form = pytest.mark.parametrize("name", FORMS)


@once_outside
@pytest.mark.parametrize("marked", ["not full", pytest.param("full", marks=pytest.mark.full)])
def test_everything_here_in_the_interpreter(marked: str) -> None:
    run_in_the_interpreter(__file__, marked)


def first(*given: Any, of: Sequence[Any]) -> list[Any]:
    """The parameters `of` a test. In the interpreter those `given` stand for the others at every `make test`."""
    return [
        one
        if one in given or not INTERPRETED
        else pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=pytest.mark.full)
        for one in of
    ]


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run on copies of their tensors between stretches of poison, and write over poison."""
    module = importlib.import_module("wassrank.triton.gaussian_wasserstein")

    def run(launches: list[Any], _: torch.device) -> None:
        for launch in launches:
            guards = Guards()
            written = WRITES[launch.kernel.fn.__name__]
            partly = {"gradient"} & written  # columns outside a tile stay what they are
            arguments = guards.around(launch.arguments, written - partly)
            dataclasses.replace(launch, arguments=arguments).run()
            guards.check()
            for name in written:
                if launch.arguments[name] is not None:
                    launch.arguments[name].copy_(arguments[name])

    monkeypatch.setattr(module, "run", run)


def passes(tile: str = "as on a GPU") -> Any:
    """Called as the class is."""
    from wassrank.triton.gaussian_wasserstein import GaussianPasses, GaussianTile

    return functools.partial(GaussianPasses, tile=GaussianTile(**TILES[tile]))


def arguments(
    scores: Tensor, labels: Tensor, options: dict[str, Any], device: str = "cpu", temperature: float = 0.7
) -> Arguments:
    """As `wassrank.ops.gaussian_wasserstein.fused` has them."""
    target, mask = options.get("target", "softmax"), options.get("mask")
    given, kind = inputs.given_target(target, torch.float64)
    temperatures, label_temperature = inputs.temperatures(options.get("label_temperature", 0.8), torch.float64)
    if mask is not None and mask.shape != scores.shape:
        mask = mask.reshape(-1)
    a = Arguments(
        scores.detach(),
        labels,
        given,
        mask,
        temperatures,
        kind,
        options.get("in_batch", 0.0),
        None if labels.is_floating_point() else 8,
        temperature,
        label_temperature,
    )
    moved: dict[str, Any] = {name: t.to(device) for name, t in a._asdict().items() if isinstance(t, Tensor)}
    return a._replace(**moved)


def of_rows(a: Arguments, first: int, last: int) -> Arguments:
    """What a process has whose rows are first … last − 1."""
    rows = slice(first, last)
    return a._replace(
        scores=a.scores[rows],
        labels=a.labels[rows],
        target=None if a.target is None else a.target[rows],
        mask=a.mask if a.mask is None or a.mask.dim() == 1 else a.mask[rows],
        label_temperatures=None if a.label_temperatures is None else a.label_temperatures[rows],
    )


def check_every_pass(
    a: Arguments,
    ours: Any,
    first: int = 0,
    *,
    flags: tuple[bool | None, ...] = (None,),
    gradient_rounding: float = 1e-12,
) -> None:
    """Against plain torch's, each on the same state: that of plain torch."""
    ours, plain = ours(a, first), PlainPasses(a, first)
    (Q, N), K = a.scores.shape, a.labels.shape[1]
    generator = torch.Generator().manual_seed(5)
    same = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-15, equal_nan=True)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(a.scores.device)

    want = plain.rows()
    same(ours.rows(), want)
    row, excess = want
    moments = plain.moments(row)
    same(ours.moments(row), moments)
    columns = torch.cat([moments[[0, 2]] / max(Q, 1), random(2, N)])
    along = plain.along(row, columns)
    same(ours.along(row, columns), along)

    excess = random(N) if a.blocks and first else excess.reshape(-1)
    one, W, everywhere = flags if a.blocks else (None,), random(Q, N // max(K, 1)), random(Q)
    turned: list[Turned | Tensor | None] = [None, random(Q, N)]
    for flag in one:
        device_flag = None if flag is None else torch.tensor(flag, device=a.scores.device)
        same(
            ours.products(row, columns, excess, device_flag),
            plain.products(row, columns, excess, device_flag),
        )
        if a.blocks:
            turned.append(Turned(W, everywhere, excess, device_flag))
    begin, end = N // 5, N - N // 7  # no power of two, and neither end of the row
    for columns_begin, columns_end in ((0, N), (begin, end)):
        same(
            ours.tiles(row, columns, columns_begin, columns_end),
            plain.tiles(row, columns, columns_begin, columns_end),
        )
    for subtracted in turned:
        whole = not isinstance(subtracted, Tensor)
        at = (0, N) if whole else (begin, end)
        part = subtracted[:, begin:end].contiguous() if isinstance(subtracted, Tensor) else subtracted
        got, expected = torch.full_like(a.scores, 7), torch.full_like(a.scores, 7)
        scale = torch.tensor(1.3, dtype=torch.float64, device=a.scores.device)
        ours.gradient(row, columns, along, scale, got, *at, part)
        plain.gradient(row, columns, along, scale, expected, *at, part)
        torch.testing.assert_close(got, expected, rtol=gradient_rounding, atol=1e-15, equal_nan=True)


@pytest.mark.usefixtures("guarded")
@every_form
def test_every_pass_is_that_in_plain_torch(name: str, device: str) -> None:
    """And touches nothing outside its tensors, and leaves nothing unwritten."""
    # The interpreter takes its time for T the long way.
    the_long_way = not INTERPRETED or name in {"own masked", "own excluded", "own, impossible"}
    check_every_pass(arguments(*form(name), device), passes(), flags=(False, True) if the_long_way else (None,))


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(
    "name",  # T the long way, and T of a row's own
    first(
        "own, impossible",
        "dense masked",
        of=["own masked", "own excluded", "own, row mask", "own, impossible", "dense masked"],
    ),
)
def test_every_pass_in_many_tiles(name: str, device: str) -> None:
    check_every_pass(arguments(*form(name), device), passes("tiny"), flags=(name == "own, impossible",))


@pytest.mark.usefixtures("guarded")
@every_form
def test_rows_of_a_larger_batch(name: str, device: str) -> None:
    a = arguments(*form(name), device)
    # Several processes ask for the flag, and where it is set have T written out.
    check_every_pass(of_rows(a, 5, 11), passes(), first=5, flags=(None, False))


# The interpreter truncates to bfloat16; elsewhere the two sides may fall on either side of a tie.
ROUNDING = {torch.float64: 1e-12, torch.float32: 2**-23, torch.float16: 2**-10, torch.bfloat16: 2**-7}


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", ["own masked", "dense"])
def test_scores_of_every_type(name: str, dtype: torch.dtype, device: str) -> None:
    check_every_pass(arguments(*form(name, dtype), device), passes(), gradient_rounding=ROUNDING[dtype])


@pytest.mark.parametrize(
    "dtype",
    [torch.int32, torch.int16, torch.int8, torch.uint8, torch.float64, torch.float32, torch.float16, torch.bfloat16],
    ids=lambda d: str(d).removeprefix("torch."),
)
def test_labels_of_every_type(dtype: torch.dtype, device: str) -> None:
    for name in ("own", "dense"):
        scores, labels, options = form(name)
        a = arguments(scores, labels.to(dtype), options, device)
        torch.testing.assert_close(passes()(a, 0).rows(), PlainPasses(a, 0).rows(), rtol=1e-13, atol=0)


SIZES = [(1, 7), (2, 1), (3, 2), (5, 33), (3, 130), (0, 3), (3, 0)]


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(("Q", "K"), SIZES)
def test_any_number_of_queries_and_of_passages(Q: int, K: int, device: str) -> None:
    generator = torch.Generator().manual_seed(Q)
    scores = torch.randn(Q, Q * K, generator=generator, dtype=torch.float64)
    for dense in (False, True):
        labels = torch.randint(0, 4, (Q, Q * K if dense else K), generator=generator)
        check_every_pass(arguments(scores, labels, {}, device), passes(), flags=(None, True))


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("in_batch", [0.0, None])
def test_rows_that_are_no_samples(in_batch: float | None, device: str) -> None:
    """Whatever their scores: one with nothing real, one with no gain that holds a NaN, and one with both."""
    scores, labels, _ = form("own")
    labels[2] = labels[5] = 0
    scores = scores.detach()
    scores[5, 3] = math.nan
    mask = torch.ones_like(scores, dtype=torch.bool)
    mask[2] = mask[9] = False
    options = {"mask": mask, "target": "linear", "in_batch": in_batch}
    a = arguments(scores, labels, options, device)
    row, _ = PlainPasses(a, 0).rows()
    assert (row[:, Row.INVERSE] == 0).nonzero().flatten().tolist() == [2, 5, 9]
    got, _ = passes()(a, 0).rows()
    assert (got[:, Row.INVERSE] == 0).nonzero().flatten().tolist() == [2, 5, 9]
    clean = a._replace(scores=a.scores.nan_to_num())
    for one, other in zip(
        tiles_and_moments(a, got), tiles_and_moments(clean, PlainPasses(clean, 0).rows()[0]), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def tiles_and_moments(a: Arguments, row: Tensor) -> tuple[Tensor, ...]:
    columns = row.new_zeros(2, a.scores.shape[1])
    return (*passes()(a, 0).tiles(row, columns, 0, a.scores.shape[1]), passes()(a, 0).moments(row))


@pytest.mark.parametrize(
    "name",  # a grade and a float, each kind's
    first("own masked", "own floats", of=["own masked", "own excluded", "dense masked", "own floats"]),
)
def test_a_stray_label_makes_its_row_nan_and_no_other(name: str, device: str) -> None:
    scores, labels, options = form(name)
    # 2^32 is 0, if wrapped to 32 bits.
    strays = [math.nan, math.inf, -math.inf] if labels.is_floating_point() else [2**32, -1, 8]
    if "mask" in options:
        options["mask"][3, 4] = True
        options["mask"][6, 2] = False
    for stray in strays:
        labels[3, 4] = stray
        labels[6, 2] = stray if "mask" in options else labels[6, 2]  # where nobody looks
        row, _ = passes()(arguments(scores, labels, options, device), 0).rows()
        assert row[:, Row.INVERSE].isnan().nonzero().flatten().tolist() == [3]
        loss, gradient = loss_and_gradient(scores, labels, options, device)
        assert loss.isnan()
        assert gradient[3].isnan().any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_makes_its_row_nan(value: float, device: str) -> None:
    for name in ("own", "dense"):
        scores, labels, options = form(name)
        with torch.no_grad():
            scores[4, 40] = value
        row, _ = passes()(arguments(scores, labels, options, device), 0).rows()
        assert row[:, Row.INVERSE].isnan().nonzero().flatten().tolist() == [4]


def loss_and_gradient(
    scores: Tensor, labels: Tensor, options: dict[str, Any], device: str, **others: Any
) -> tuple[Tensor, Tensor]:
    """Of the loss in Triton, on the CPU."""
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
    leaf = scores.detach().to(device).requires_grad_()
    loss, gradient = step(leaf, labels.to(device), backend="triton", **moved, **others)
    return loss.cpu(), gradient.cpu()


# Each form's passes are compared above, one by one. Here the loss puts them together, in two ways.
WAYS = [(name, covariance) for name in FORMS for covariance in ("full", "diagonal")]


@pytest.mark.parametrize(("name", "covariance"), first(*WAYS[::4], *WAYS[3::4], of=WAYS))
def test_the_loss_is_the_reference(name: str, covariance: str, device: str) -> None:
    scores, labels, options = form(name)
    others: dict[str, Any] = {"temperature": 0.7, "covariance": covariance}
    want = step(scores, labels, backend="torch", **options, **others)
    got = loss_and_gradient(scores, labels, options, device, **others)
    assert abs(got[0] - want[0]) <= 1e-11 * want[0]
    assert (got[1] - want[1]).norm() <= 1e-11 * want[1].norm()


@pytest.mark.skipif(not INTERPRETED, reason="their tensors are the CPU's; test_gaussian_on_gpu.py has a GPU's")
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_what_every_backend_is_held_to(covariance: str) -> None:
    for Q in (1, 2, 9):
        gaussian.test_no_loss_and_no_gradient_where_p_is_t(Q, covariance, "triton")
    for test in (
        gaussian.test_padding_changes_nothing,
        gaussian.test_masks_and_impossible_scores_are_one_thing,
        gaussian.test_queries_with_nothing_are_no_samples,
    ):
        test(covariance, "triton")
    for edge in ("two queries", "fewer passages than queries", "one passage", "one-hot", "temperature 0.0001"):
        gaussian.test_finite_and_never_negative(edge, torch.float32, "triton")
    if covariance == "full":
        gaussian.test_an_empty_batch_has_loss_0("triton")
        gaussian.test_one_query_has_the_mean_term_alone("triton")
        gaussian.test_a_score_that_is_no_number_makes_loss_and_gradient_none("triton")
        gaussian.test_in_batch_labels_are_dense_labels("triton")
        gaussian.test_eps_gives_the_published_values("triton")


@pytest.mark.parametrize(("name", "diagonal"), [("own masked", False), ("dense", True)])
def test_opcheck(name: str, diagonal: bool, device: str) -> None:
    a = arguments(*form(name), device)._replace(diagonal=diagonal)
    operator = torch.ops.wassrank.gaussian_wasserstein_triton.default
    torch.library.opcheck(operator, tuple(a._replace(scores=a.scores.clone().requires_grad_())))
    loss, *kept = operator(*a)
    backward = (torch.ones_like(loss), *a[:5], *kept, *a[5:])
    torch.library.opcheck(torch.ops.wassrank.gaussian_wasserstein_backward_triton.default, backward)


def test_compiles_without_a_graph_break_and_gives_the_same(device: str) -> None:
    scores = torch.randn(4, 12, device=device, requires_grad=True)
    labels = torch.randint(0, 4, (4, 3), device=device)

    def loss(s: Tensor) -> Tensor:
        return gaussian_wasserstein(2 * s, labels, temperature=0.5, backend="triton").exp()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (want,) = torch.autograd.grad(loss(scores), scores)
    (got,) = torch.autograd.grad(compiled(scores), scores)
    assert torch.equal(got, want)


@pytest.mark.skipif(not INTERPRETED, reason="it takes a file of holes")
@pytest.mark.parametrize("in_batch", [0.0, None])
def test_offsets_past_two_to_the_31st_element(
    in_batch: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last row, over files that are holes but for that and what is of all."""
    Q, K = 33_000, 2
    N = Q * K
    empty = functools.partial(torch.empty, device="meta", dtype=torch.float64)
    a = Arguments(
        scores=empty((Q, N), dtype=torch.bfloat16),
        labels=empty((Q, K), dtype=torch.int8),
        mask=empty(N, dtype=torch.bool),
        target_kind=int(Target.exp2),
        in_batch=in_batch,
        num_levels=4,
        temperature=0.5,
    )
    ours = passes()(a, 0)
    (row, excess), rows = ours.plan_rows()
    columns, along, scale, out = empty((4, N)), empty(Q), empty(()), torch.empty_like(a.scores)
    flag = empty((), dtype=torch.bool)
    w = excess.view(-1)
    _, products = ours.plan_products(row, columns, w, flag)
    begin = N - 3000
    turned = Turned(empty((Q, Q)), empty(Q), w, flag)
    gradient = ours.plan_gradient(row, columns, along, scale, out, begin, N, turned)
    _, tiles = ours.plan_tiles(row, columns, 0, N)
    holes = Holes(tmp_path)
    rows, products, gradient, tiles = (holes.under(launch) for launch in (rows, products, gradient, tiles))

    generator = torch.Generator().manual_seed(0)
    first = Q - 1
    last = slice(first, Q)
    given = rows.arguments
    given["scores"][last] = torch.randn((1, N), generator=generator).bfloat16()
    given["labels"][last] = torch.tensor([[1, 3]], dtype=torch.int8)
    given["mask"].copy_(torch.rand(N, generator=generator) > 0.3)
    given["mask"][-K:] = True
    # As a process has them whose only row this is.
    small = Arguments(given["scores"][last], given["labels"][last], None, given["mask"], *a[4:])
    want_row, want_excess = PlainPasses(small, first).rows()
    run_last(rows, monkeypatch)
    same = functools.partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
    same((given["state"][last], given["excess"][last]), (want_row, want_excess))

    means = products.arguments["columns"].copy_(torch.rand((4, N), generator=generator))
    whole = products.arguments["excess"].copy_(torch.rand(N, generator=generator))
    run_last(products, monkeypatch)
    got = products.arguments["sums"][last], products.arguments["products"][last]
    same(got, PlainPasses(small, first).products(want_row, means, whole, None))

    run_last(tiles, monkeypatch)
    got = tiles.arguments["tile_P"][last], tiles.arguments["tile_E_T"][last]
    same(got, PlainPasses(small, first).tiles(want_row, means, 0, N))

    at = gradient.arguments
    at["scale"].fill_(3)
    at["along"][last] = 0.5
    at["everywhere"][last] = 0.1
    at["W"][last] = torch.rand((1, Q), generator=generator)
    want = torch.zeros(1, N, dtype=torch.float64)
    parts = Turned(at["W"][last], at["everywhere"][last], whole, None)
    PlainPasses(small, first).gradient(want_row, means, at["along"][last], at["scale"], want, 0, N, parts)
    run_last(gradient, monkeypatch)
    torch.testing.assert_close(at["gradient"][last, begin:].double(), want[:, begin:], rtol=2**-7, atol=1e-12)
    assert holes.committed() < 2**24
