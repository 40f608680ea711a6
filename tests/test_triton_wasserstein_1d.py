"""The Triton kernels of the 1-D distance against the native ones for the CPU, which are compared with the reference and
with oracles from outside (test_wasserstein_1d.py), and what only they can get wrong. In the interpreter where there is
no GPU, as test_triton.py. There a pair takes some 0.2 s: few pairs each, that differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import test_triton
import test_wasserstein_1d as native
import torch
from test_triton import INTERPRETED, Guards, once_outside, run_in_the_interpreter
from torch import Tensor

import wassrank
from wassrank.arguments import TRITON_SORTS
from wassrank.arguments import PairArguments as Arguments
from wassrank.backends import missing

pytestmark = [
    *([test_triton.pytestmark] if isinstance(test_triton.pytestmark, pytest.MarkDecorator) else test_triton.pytestmark),
    pytest.mark.skipif(missing("native", "cpu") is not None, reason="the C++ extension is not built"),
    # The interpreter's: log2 of a distance of 0, and what infinities make.
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
]
device = test_triton.device
every_p = pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
ORDERS = [1.0, 2.0, 1.5]  # with code of their own

wasserstein_1d: Any = wassrank.wasserstein_1d


@once_outside
def test_everything_here_in_the_interpreter() -> None:
    run_in_the_interpreter(__file__)


@pytest.fixture
def tiny_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cells at a time, or eight points: short rows take many tiles."""
    from wassrank.triton import launch

    monkeypatch.setattr(launch, "WARP", 1)
    monkeypatch.setattr(launch, "STAIRCASE_WARPS", 2)
    monkeypatch.setattr(launch, "PAIRING_WARPS", 2)


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two, each with every other pair."""
    from wassrank.triton import launch

    monkeypatch.setattr(launch, "RESIDENT_WARPS", 2)


def arguments(
    rows: int = 3,
    n: int = 6,
    m: int = 9,
    seed: int = 0,
    weighted: bool = True,
    dtype: torch.dtype = torch.float64,
    **changes: Any,
) -> Arguments:
    """Of `wassrank::wasserstein_1d`, on the CPU."""
    x, y, *weights = (t.detach() for t in native.problem(rows, n, m, seed, weighted=weighted))
    C = torch.float64 if dtype == torch.float64 else torch.float32
    a, b = (t.to(C) for t in weights) if weighted else (None, None)
    made = Arguments(x.to(dtype), y.to(dtype), a, b, pairs=rows, wanted=0b1111 if weighted else 0b11)
    return made._replace(**changes)


def at_ties(n: int, m: int) -> Arguments:
    """Two pairs of each kind that can be had with these sizes."""
    kinds = [kind for kind in native.TIES if kind != "of one side" and (kind != "identical" or n == m)]
    tied = [native.tied(kind, 2, n, m) for kind in kinds]
    x, y, a, b = (torch.cat([t.detach() for t in of]) for of in zip(*tied, strict=True))
    return Arguments(x, y, a, b, pairs=len(x), wanted=0b1111)


def on(device: str, a: Arguments) -> Arguments:
    moved: dict[str, Any] = {name: t.to(device) for name, t in a._asdict().items() if isinstance(t, Tensor)}
    return a._replace(**moved)


def run(a: Arguments, device: str) -> list[Tensor]:
    return [t.cpu() for t in torch.ops.wassrank.wasserstein_1d_triton(*on(device, a))]


def check(a: Arguments, device: str, rtol: float = 1e-11, atol: float = 1e-12) -> None:
    """Against the native operator."""
    want = torch.ops.wassrank.wasserstein_1d(*a)
    for ours, theirs in zip(run(a, device), want, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


# Values and what is kept of both gradients.


@every_p
def test_random_weights_and_ties_of_every_kind(p: float, device: str) -> None:
    check(arguments(2, 13, 7, p=p), device)
    check(at_ties(6, 6)._replace(p=p), device)


@pytest.mark.parametrize("p", ORDERS)
def test_ties_across_many_tiles(p: float, device: str, tiny_tiles: None) -> None:
    check(at_ties(10, 10)._replace(p=p), device)
    check(at_ties(5, 11)._replace(p=p), device)
    x, y, a, b = (t.detach().contiguous() for t in native.tied("of one side", 2, 5, 11))
    check(Arguments(x, y, a, b, pairs=2, wanted=0b1111, p=p), device)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (7, 1), (40, 64)])
def test_sizes(n: int, m: int, device: str) -> None:
    check(arguments(2, n, m, p=2.0), device)
    check(arguments(2, n, m, p=2.0, weighted=False), device)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("tiny", [False, True])
def test_as_many_points_without_weights(p: float, tiny: bool, device: str, request: pytest.FixtureRequest) -> None:
    if tiny:
        request.getfixturevalue("tiny_tiles")
    check(arguments(3, 21, 21, weighted=False, p=p), device)
    check(arguments(3, 8, 8, weighted=False, p=p, wanted=0b10), device)
    a = arguments(3, 8, 8, weighted=False, p=p)
    check(a._replace(u_values=a.u_values[:1]), device)


def test_uniform_against_weighted(device: str) -> None:
    a = arguments(2, 6, 8, p=2.0)
    check(a._replace(u_weights=None, wanted=0b1011), device)
    check(a._replace(v_weights=None, wanted=0b0111), device)


def masked(a: Arguments, keep: float = 0.6, shared: bool = False) -> Arguments:
    generator = torch.Generator().manual_seed(3)
    rows = 1 if shared else a.pairs
    u, v = (torch.rand(rows, t.shape[1], generator=generator) < keep for t in (a.u_values, a.v_values))
    u[0, 0] = v[0, 1] = True
    return a._replace(u_mask=u, v_mask=v)


@pytest.mark.parametrize("weighted", [True, False])
def test_masks(weighted: bool, device: str, tiny_tiles: None) -> None:
    check(masked(arguments(3, 11, 14, weighted=weighted, p=2.0)), device)
    check(masked(arguments(2, 11, 14, weighted=weighted, p=2.0), shared=True), device)
    same_length = masked(arguments(2, 9, 9, weighted=weighted, p=1.5))
    check(same_length._replace(v_mask=same_length.u_mask), device)
    check(same_length._replace(v_mask=None), device)


def test_what_pairs_share_is_given_once(device: str) -> None:
    a = arguments(3, 6, 7, p=2.0)
    assert a.u_weights is not None
    check(a._replace(u_values=a.u_values[:1], v_values=a.v_values[1:2]), device)
    check(a._replace(v_values=a.v_values[:1], u_weights=a.u_weights[:1]), device)
    check(masked(a._replace(u_values=a.u_values[:1])), device)
    check(masked(a._replace(u_values=a.u_values[:1]), shared=True), device)


LENGTHS, OTHERS = [4, 1, 0, 7, 3], [5, 2, 4, 0, 19]


@pytest.mark.parametrize("weighted", [True, False])
def test_packed_lists(weighted: bool, device: str, tiny_tiles: None) -> None:
    u_offsets, v_offsets = (torch.tensor([0, *of]).cumsum(0) for of in (LENGTHS, OTHERS))
    a = arguments(1, sum(LENGTHS), sum(OTHERS), weighted=weighted, p=2.0)
    flat: dict[str, Any] = {k: t.flatten() for k, t in a._asdict().items() if isinstance(t, Tensor)}
    packed = a._replace(**flat, u_offsets=u_offsets, v_offsets=v_offsets, pairs=len(LENGTHS))
    check(packed, device)
    mask = torch.rand(sum(LENGTHS), generator=torch.Generator().manual_seed(1)) < 0.7
    check(packed._replace(u_mask=mask), device)
    one = arguments(len(LENGTHS), 6, 8, weighted=weighted, p=2.0)
    check(packed._replace(v_values=one.v_values, v_weights=one.v_weights, v_offsets=None), device)
    check(packed._replace(u_values=one.u_values[:1], u_weights=one.u_weights, u_offsets=None), device)


def test_programs_with_several_pairs_each(device: str, few_programs: None) -> None:
    check(masked(arguments(5, 6, 9, p=2.0)), device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrower_values(dtype: torch.dtype, device: str) -> None:
    check(arguments(2, 12, 9, dtype=dtype, p=2.0), device, rtol=2e-7, atol=1e-9)
    check(masked(arguments(2, 12, 9, dtype=dtype, p=1.5)), device, rtol=2e-7, atol=1e-9)
    check(arguments(3, 12, 12, dtype=dtype, weighted=False), device, rtol=2e-7, atol=1e-9)


def test_repeated_half_values_in_longer_rows(device: str) -> None:
    """Which torch sorts."""
    a = arguments(1, TRITON_SORTS + 44, 20, dtype=torch.bfloat16, p=2.0)
    check(a, device, rtol=1e-6, atol=1e-9)


def test_heights_neither_fall_nor_pass_one(device: str, tiny_tiles: None) -> None:
    """Weights over many orders of magnitude, some too small to be seen beside the others, on either side."""
    a = arguments(2, 30, 41, p=2.0)
    assert a.u_weights is not None
    assert a.v_weights is not None
    powers = [10 ** (-20 * w) for w in (a.u_weights, a.v_weights)]
    powers = [w / w.sum(1, keepdim=True) for w in powers]
    check(a._replace(u_weights=powers[0], v_weights=powers[1]), device)
    a = a._replace(u_weights=0.1 * torch.ones(2, 30).double(), v_weights=0.3 * torch.ones(2, 41).double())
    check(a, device)


# Nothing there, and what cannot be.


@pytest.mark.parametrize("weighted", [True, False])
def test_an_empty_side_has_loss_and_gradients_zero(weighted: bool, device: str) -> None:
    a = arguments(3, 4, 5, weighted=weighted)
    mask = torch.tensor([[True] * 4, [False] * 4, [True] * 4])
    check(a._replace(u_mask=mask), device)
    for out in run(a._replace(u_mask=mask, v_values=torch.full_like(a.v_values, torch.nan)), device):
        if out.numel():
            assert (out[1] == 0).all()
            assert out[::2].isnan().any(-1).all()
    nothing = arguments(2, 0, 5, weighted=weighted)
    check(nothing, device)
    neither = arguments(2, 0, 0, weighted=weighted)
    check(neither, device)
    check(arguments(0, 4, 5, weighted=weighted), device)
    check(arguments(0, 4, 4, weighted=weighted), device)


STRAYS = {
    "u_values": [torch.nan, torch.inf, -torch.inf],
    "v_values": [-torch.inf, torch.nan, torch.inf],
    "u_weights": [torch.nan, torch.inf, -0.5],
    "v_weights": [-1.0, torch.inf, torch.nan],
}


@pytest.mark.parametrize("name", STRAYS)
def test_what_is_not_finite_makes_its_pair_nan_and_no_other(name: str, device: str) -> None:
    """Unless it takes no part."""
    a = arguments(4, 5, 6, p=2.0)
    bad: Any = getattr(a, name).clone()
    bad[1:, 2] = torch.tensor(STRAYS[name])
    want = run(a, device)
    for dtype in (torch.float64, torch.float32) if "values" in name else (torch.float64,):
        broken = a._replace(**{name: bad})
        if dtype == torch.float32:
            given: dict[str, Any] = {k: t.float() for k, t in broken._asdict().items() if isinstance(t, Tensor)}
            broken = broken._replace(**given)
        for ours, whole in zip(run(broken, device), want, strict=True):
            assert ours[1:].isnan().all()
            torch.testing.assert_close(ours[0], whole[0].to(dtype), rtol=1e-6, atol=1e-7)
    mask = torch.ones(bad.shape, dtype=torch.bool)
    mask[1:, 2] = False
    side = name[0]
    same: dict[str, Any] = {f"{side}_mask": mask}
    for ours, whole in zip(
        run(a._replace(**{name: bad}, **same), device), run(a._replace(**same), device), strict=True
    ):
        assert torch.equal(ours, whole)
    # And with another point masked, gradients are NaN where points take part and 0 where they do not.
    mask[1:] = True
    mask[1:, 4] = False
    loss, *kept = run(a._replace(**{name: bad}, **same), device)
    assert loss.isnan().tolist() == [False, True, True, True]
    for k, ours in enumerate(kept):
        taking = mask[1:] if "uv"[k % 2] == side else torch.ones_like(ours[1:], dtype=torch.bool)
        assert ours[1:][taking].isnan().all()
        assert (ours[1:][~taking] == 0).all()


def test_weights_that_are_all_zero_make_their_pair_nan(device: str) -> None:
    a = arguments(2, 4, 5)
    assert a.u_weights is not None
    a.u_weights[1] = 0
    for ours in run(a, device):
        assert ours[1].isnan().all()
        assert ours[0].isfinite().all()


@pytest.mark.parametrize("stray", [torch.nan, torch.inf, -torch.inf])
def test_strays_among_as_many_points_without_weights(stray: float, device: str) -> None:
    a = arguments(3, 5, 5, weighted=False, dtype=torch.float32)
    a.v_values[1, 3] = stray
    for ours in run(a, device)[:3]:
        assert ours[1].isnan().all()
        assert ours[::2].isfinite().all()


# What is asked for.


def test_only_what_is_wanted_is_written_and_is_the_same(device: str) -> None:
    a = arguments(2, 5, 6, p=2.0)
    want = run(a, device)
    for wanted in (0, 0b0001, 0b0010, 0b0100, 0b1000, 0b1010):
        got = run(a._replace(wanted=wanted), device)
        for k, (ours, theirs) in enumerate(zip(got, want, strict=True)):
            if k == 0 or wanted >> (k - 1) & 1:
                torch.testing.assert_close(ours, theirs, rtol=1e-15, atol=1e-16)
            else:
                assert ours.shape == (0,)


def test_public_function_and_its_gradients(device: str) -> None:
    """A grid given once, leading dimensions, packed points, a mask for all."""

    def same(call: Any, *leaves: Tensor, **options: Any) -> None:
        results = []
        for backend, where in (("triton", device), ("native", "cpu")):
            inputs = [t.detach().to(where).requires_grad_() for t in leaves]
            there = {k: t.to(where) if isinstance(t, Tensor) else t for k, t in options.items()}
            loss = call(*inputs, backend=backend, **there)
            gradients = torch.autograd.grad((loss * loss.detach()).sum(), inputs)
            results.append([loss.detach().cpu(), *(g.cpu() for g in gradients)])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)

    x, y, a, b = (t.detach() for t in native.problem(4, 6, 5))
    same(wasserstein_1d, x[0], y, a, b, p=2)
    same(wasserstein_1d, x[:, None], y[:2], p=1.5)
    offsets = [torch.tensor([0, 3, 3, 9, 24]), torch.tensor([0, 5, 12, 18, 20])]
    flat = [t.flatten() for t in (x, y, a, b)]
    same(wasserstein_1d, *flat, u_offsets=offsets[0], v_offsets=offsets[1])
    mask = torch.tensor([True, True, False, True, True, True])
    same(wasserstein_1d, x, y, a, b, u_mask=mask, p=3)


@pytest.mark.parametrize("m", [5, 6])
def test_sliced(m: int, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    clouds = [torch.randn(n, 3, generator=generator, dtype=torch.float64).to(device) for n in (5, m)]
    results = []
    for backend in ("triton", "torch"):
        x, y = (t.clone().requires_grad_() for t in clouds)
        loss = wassrank.sliced_wasserstein(x, y, n_projections=3, p=2, seed=1, backend=backend)
        results.append([loss.detach(), *torch.autograd.grad(loss, (x, y))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_a_second_derivative_is_refused_with_the_remedy(device: str) -> None:
    inputs = [t.detach().to(device).requires_grad_() for t in native.problem(1, 4, 5)]
    loss = wasserstein_1d(*inputs, p=2, backend="triton").sum()
    gradient = torch.autograd.grad(loss, inputs, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='torch'"):
        gradient[0].sum().backward()


# The operator.

FORMS = {
    "weighted": arguments(),
    "masked": masked(arguments(p=2.0)),
    "paired": arguments(3, 6, 6, weighted=False, p=1.5),
    "unweighted": arguments(weighted=False),
    "shared": arguments()._replace(u_values=torch.randn(1, 6).double(), wanted=0b1100),
    "narrow": masked(arguments(dtype=torch.float16)),
}
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.mark.parametrize("form", ["weighted", "paired", "shared"])
def test_opcheck(form: str, device: str) -> None:
    a = on(device, FORMS[form])
    leaves = [t if t is None else t.clone().requires_grad_() for t in a[:4]]
    torch.library.opcheck(torch.ops.wassrank.wasserstein_1d_triton.default, (*leaves, *a[4:]))
    loss, *kept = torch.ops.wassrank.wasserstein_1d_triton(*a)
    b = (torch.ones_like(loss), *a[:4], a.u_offsets, a.v_offsets, *kept, a.wanted)
    torch.library.opcheck(torch.ops.wassrank.wasserstein_1d_backward_triton.default, b)


@every_form
def test_plans_give_what_the_operators_promise(form: str) -> None:
    """Of meta tensors, which compute nothing."""
    from wassrank.triton.wasserstein_1d import plan_forward

    a = on("meta", FORMS[form])
    promised = torch.ops.wassrank.wasserstein_1d_triton(*a)
    outputs, _ = plan_forward(a)
    assert [(t.shape, t.dtype) for t in outputs] == [(t.shape, t.dtype) for t in promised]


WRITTEN = {"order", "u_line", "v_line", "loss", "u_slope", "v_slope", "u_potential", "v_potential"}


@every_form
def test_touches_nothing_outside_its_tensors_and_leaves_nothing_unwritten(
    form: str, device: str, tiny_tiles: None
) -> None:
    from wassrank.triton.wasserstein_1d import plan_forward

    a = on(device, FORMS[form])
    want = torch.ops.wassrank.wasserstein_1d_triton(*a)
    outputs, launches = plan_forward(a)
    guards = Guards()
    for one in launches:
        dataclasses.replace(one, arguments=guards.around(one.arguments, WRITTEN)).run()
    for got, expected in zip(outputs, want, strict=True):
        assert torch.equal(guards.inside(got), expected)
    guards.check()


def test_same_bits_each_run(device: str) -> None:
    a = masked(arguments(p=1.5))
    for one, other in zip(run(a, device), run(a, device), strict=True):
        assert torch.equal(one, other)


def test_compiles_without_a_graph_break_and_gives_the_same(device: str) -> None:
    inputs = [t.detach().to(device).requires_grad_() for t in native.problem(2, 6, 7)]

    def loss(*t: Tensor) -> Tensor:
        distances: Tensor = wasserstein_1d(*t, p=2, backend="triton")
        return distances.sum().exp()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    want = torch.autograd.grad(loss(*inputs), inputs)
    for got, expected in zip(torch.autograd.grad(compiled(*inputs), inputs), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masked_points_are_sorted_last(dtype: torch.dtype, device: str) -> None:
    from wassrank.triton.grade_order import plan_sort
    from wassrank.triton.launch import run as launch_all

    generator = torch.Generator().manual_seed(0)
    values = (4 * torch.randn(5, 9, generator=generator)).round().to(dtype)
    values[0, :3] = torch.tensor([torch.inf, -torch.inf, -0.0])
    mask = torch.rand(5, 9, generator=generator) < 0.6
    for v, m in ((values, mask), (values[:1], mask), (values, mask[:1]), (values[:1], mask[:1])):
        order, launch = plan_sort(v.to(device), m.to(device))
        launch_all([launch], order.device)
        want = torch.where(m, v, torch.nan).argsort(dim=1, stable=True)
        assert torch.equal(order.long().cpu(), want)


# On a GPU.

on_a_gpu = pytest.mark.gpu
OPTIONS: list[dict[str, Any]] = [
    {},
    {"weighted": True, "p": 2.0},
    {"weighted": True, "masked": True, "p": 1.5},
    {"m": 300},
    {"n": 3000, "m": 5000, "weighted": True},
    {"n": 3000, "m": 3000},
    {"shared": True, "weighted": True},
    {"packed": True, "weighted": True, "p": 2.0},
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def gpu_problem(options: dict[str, Any], dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], dict[str, Any]]:
    left = dict(options)
    n, weighted, packed = left.pop("n", 200), left.pop("weighted", False), left.pop("packed", False)
    m, rows = left.pop("m", n), 1 if packed else 64
    leaves = [t.detach() for t in native.problem(rows, n, m, dtype=dtype, weighted=weighted)]
    if left.pop("shared", False):
        leaves[0] = leaves[0][0]
    if left.pop("masked", False):
        left["u_mask"] = (torch.rand(64, n) < 0.8).cuda()
    if packed:
        leaves = [t.flatten() for t in leaves]
        left["u_offsets"] = left["v_offsets"] = torch.tensor([0, 1, 1, 7, 50, n], device="cuda")
    return [t.cuda().requires_grad_() for t in leaves], left


def step(leaves: list[Tensor], options: dict[str, Any], backend: str = "triton") -> list[Tensor]:
    loss = wasserstein_1d(*leaves, backend=backend, **options)
    return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]


@on_a_gpu
@every_option
def test_a_step_on_a_gpu_can_be_captured_in_a_cuda_graph(options: dict[str, Any]) -> None:
    leaves, options = gpu_problem(options)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(leaves, options)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(leaves, options)
    with torch.no_grad():
        leaves[0].copy_(torch.randn_like(leaves[0]))
    graph.replay()
    for got, expected in zip(captured, step(leaves, options), strict=True):
        assert torch.equal(got, expected)


@on_a_gpu
@every_option
def test_a_step_on_a_gpu_waits_for_nothing(options: dict[str, Any], request: pytest.FixtureRequest) -> None:
    leaves, options = gpu_problem(options)
    step(leaves, options)  # the first one compiles
    torch.cuda.synchronize()
    request.getfixturevalue("no_waiting")
    step(leaves, options)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Any wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
@every_option
def test_a_step_on_a_gpu_is_that_of_the_cpu_and_the_same_each_run(options: dict[str, Any]) -> None:
    leaves, options = gpu_problem(options)
    first = step(leaves, options)
    for got, expected in zip(step(leaves, options), first, strict=True):
        assert torch.equal(got, expected)
    there = {k: t.cpu() if isinstance(t, Tensor) else t for k, t in options.items()}
    want = step([t.detach().cpu().requires_grad_() for t in leaves], there, backend="native")
    for got, expected in zip(first, want, strict=True):
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-5, atol=1e-7)


@on_a_gpu
@pytest.mark.skipif(INTERPRETED, reason="a million points")
@pytest.mark.parametrize("weighted", [True, False])
def test_a_million_points_on_a_gpu(weighted: bool) -> None:
    leaves = native.problem(1, 1_000_000, 333_333, seed=15, dtype=torch.float32, weighted=weighted)
    want = step(native.detached([t.double() for t in leaves]), {"p": 2.0}, backend="native")
    got = step([t.detach().cuda().requires_grad_() for t in leaves], {"p": 2.0})
    for one, other in zip(got, want, strict=True):
        assert (one.cpu() - other).norm() <= 1e-5 * other.norm()
