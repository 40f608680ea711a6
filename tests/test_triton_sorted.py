"""The Triton kernels of the sorted path (labels that are any floats): the conformance table, and what only they can get
wrong. In the interpreter where there is no GPU, as test_triton.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import test_conformance as conformance
import test_triton
import torch
from cases import SORTED_CASES as CASES
from cases import Case
from test_operators import handed_over
from test_triton import INTERPRETED, Guards, once_outside, run_in_the_interpreter
from torch import Tensor

import wassrank
from wassrank.arguments import TRITON_SORTS
from wassrank.arguments import SortedArguments as Arguments
from wassrank.arguments import SortedBackwardArguments as BackwardArguments
from wassrank.backends import missing
from wassrank.ops.sorted_losses import short_order
from wassrank.tuning import TritonTuning

pytestmark = test_triton.pytestmark
device = test_triton.device


def named(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [c for c in CASES if c.name in names], ids=lambda c: c.name)


def in_time(*wide: str, without: float) -> pytest.MarkDecorator:
    """The cases, but in the interpreter, of rows that take many blocks and as many binary searches, only those named,
    and none of p = `without`, which others see to."""

    def is_in(case: Case) -> bool:
        is_wide = {"wide", "long"} & set(case.name.split("_"))
        return case.name in wide if is_wide else case.options.get("p") != without

    return pytest.mark.parametrize("case", [c for c in CASES if not INTERPRETED or is_in(c)], ids=lambda c: c.name)


@once_outside
def test_everything_here_in_the_interpreter() -> None:
    run_in_the_interpreter(__file__)


@in_time("floats_packed_long_p2", "floats_all_wide", without=1.5)
@pytest.mark.parametrize("dtype", conformance.DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_equals_float64_reference(case: Case, dtype: torch.dtype, device: str) -> None:
    if INTERPRETED and dtype == torch.float64 and missing("native", "cpu") is None:
        pytest.skip("compared with the native kernels, which are compared with the reference")
    if INTERPRETED and dtype.itemsize == 2 and case.name != "floats_all_in_batch":
        pytest.skip("half types are read and written by code that all share; a GPU runs these too")
    conformance.test_backend_equals_float64_reference(case, dtype, ("triton", device))


def operator_arguments(case: Case, device: str = "cpu") -> Arguments:
    """Of `wassrank::sorted_losses`, in float64."""
    a = handed_over(case)
    assert isinstance(a, Arguments)
    moved: dict[str, Any] = {name: t.to(device) for name, t in a._asdict().items() if isinstance(t, Tensor)}
    return a._replace(**moved)


def backward_arguments(a: Arguments, grad_loss: Tensor, outputs: tuple[Tensor, ...]) -> BackwardArguments:
    """What autograd hands to the backward."""
    _, coefficient, constant, state, scale = outputs
    others = a.target is not None and a.labels.shape != a.scores.shape == a.target.shape
    return BackwardArguments(
        grad_loss,
        a.scores,
        coefficient,
        constant if a.affine else None,
        a.target if a.kl and others else None,
        a.mask,
        a.offsets,
        state,
        scale,
        a.temperature,
    )


@pytest.mark.skipif(missing("native", "cpu") is not None, reason="the C++ extension is not built")
@in_time("floats_wide_p1.5", "floats_packed_long_p1", without=2.0)
def test_keeps_for_the_backward_what_the_native_kernels_keep(case: Case, device: str) -> None:
    """And the backward makes the same of it. In float64."""
    want = torch.ops.wassrank.sorted_losses(*operator_arguments(case))
    a = operator_arguments(case, device)
    got = torch.ops.wassrank.sorted_losses_triton(*a)
    for ours, theirs in zip(got, want, strict=True):
        sound = theirs.isfinite() & ours.cpu().isfinite()
        if theirs is not want[2]:  # a row that is not sound: native leaves its b 0
            assert torch.equal(ours.cpu().isnan(), theirs.isnan())
        conformance.assert_close(ours.cpu()[sound], theirs[sound], 1e-11, 1e-14)
    backward = [torch.ops.wassrank.sorted_losses_backward_triton, torch.ops.wassrank.sorted_losses_backward]
    gradient, expected = (
        of(*backward_arguments(at, torch.ones_like(outputs[0]), outputs)).cpu()
        for of, at, outputs in zip(backward, (a, operator_arguments(case)), (got, want), strict=True)
    )
    conformance.assert_close(gradient, expected, 1e-11, 1e-14)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if not INTERPRETED or (c.edit is not None and c.options.get("p", 1.0) == 1.5)],
    ids=lambda c: c.name,
)
def test_finite_for_finite_input_and_zero_where_no_passage_is(case: Case, device: str) -> None:
    conformance.test_finite_for_finite_input_and_zero_where_no_passage_is(case, ("triton", device))


@named("floats_others_amid_p1", "floats_packed_long_p1", "floats_all_given_to_others", "floats_masked_p2")
def test_same_bits_each_run_and_second_backward_equals_first(case: Case, device: str) -> None:
    conformance.test_same_bits_each_run_and_second_backward_equals_first(case, ("triton", device))


WRITTEN = {
    "row_loss", "row_weight", "coefficient", "constant", "state", "line", "record", "partial_cost", "loss", "scale",
    "grad_scores",
}  # fmt: skip


@named(
    "floats_in_batch_p1", "floats_masked_p2", "floats_given_own", "floats_packed_p1.5", "floats_all_packed",
    "floats_all_given_to_others", "floats_no_place_p2", "floats_wide_p1",
)  # fmt: skip
def test_touches_nothing_outside_its_tensors_and_leaves_nothing_unwritten(case: Case, device: str) -> None:
    from wassrank.triton.row_kernels import plan_sorted_backward
    from wassrank.triton.sorted_losses import plan_forward

    a = operator_arguments(case, device)
    want = torch.ops.wassrank.sorted_losses_triton(*a)
    grad_loss = torch.ones_like(want[0])
    want += (torch.ops.wassrank.sorted_losses_backward_triton(*backward_arguments(a, grad_loss, want)),)

    outputs, launches = plan_forward(a, TritonTuning())
    gradient, launch = plan_sorted_backward(backward_arguments(a, grad_loss, outputs), TritonTuning())
    guards = Guards()
    for one in [*launches, launch]:
        dataclasses.replace(one, arguments=guards.around(one.arguments, WRITTEN)).run()
    for got, expected in zip((*outputs, gradient), want, strict=True):
        assert torch.equal(guards.inside(got).nan_to_num(7), expected.nan_to_num(7))
    guards.check()


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("stray", [torch.nan, torch.inf, -torch.inf])
def test_a_stray_label_or_coordinate_makes_its_row_nan_and_no_other(stray: float, p: float, device: str) -> None:
    labels = torch.tensor([[0.5, 0.0, 1.0], [0.0, 0.0, 0.0], [3.0, 2.0, 1.0], [0.0, 1.0, 3.0]], device=device)
    position = labels.clone()
    labels[1, 1] = labels[2, 2] = position[3, 0] = stray
    mask = torch.ones(labels.shape, dtype=torch.bool, device=device)
    mask[2, 2] = False
    for width in (3, 12):
        scores = torch.linspace(-1, 2, 4 * width, device=device).reshape(4, width).requires_grad_()
        losses = wassrank.combined_loss(
            scores, labels, mask=mask, position=position, in_batch=None, p=p, kl=0.5, info_nce=0.5, reduction="none",
            backend="triton",
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(losses.sum(), scores)
        assert losses.isnan().tolist() == [False, True, False, True]
        own = gradient if width == 3 else torch.stack([gradient[i, 3 * i : 3 * i + 3] for i in range(4)])
        assert own[[1, 3]].isnan().all()
        assert own[[0, 2]].isfinite().all()
        assert own[2, 2] == 0


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_gradient_is_zero_where_p_equals_t(p: float, device: str) -> None:
    labels = torch.tensor([[0.1, 1, 2, 3.5, 3.5, 1, 0], [0, 0, 0, 0, 0, 0, 7], [5, 5, 0.25, 2, 2, 2, 2]], device=device)
    scores = labels.clone().requires_grad_()
    loss = wassrank.grade_wasserstein(scores, labels, p=p, backend="triton")
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.abs() < 1e-6
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_an_order_that_is_none_leads_out_of_no_row(p: float, device: str) -> None:
    a = operator_arguments(next(c for c in CASES if c.name == "floats_excluded_p2"), device)._replace(p=p)
    assert a.order is not None
    order = torch.full_like(a.order, 2**31 - 1)
    order[:, 0] = -(2**31)
    for output in torch.ops.wassrank.sorted_losses_triton(*a._replace(order=order)):
        assert output.shape[:1] in {(), (6,), (0,)}


def test_few_searchers_find_what_many_find(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of more points than programs can be counted for."""
    from wassrank.triton import launch

    case = next(c for c in CASES if c.name == "floats_wide_p2")
    monkeypatch.setattr(launch, "SEARCHERS", 3)
    conformance.test_backend_equals_float64_reference(case, torch.float32, ("triton", device))


@named("floats_no_query", "floats_excluded_p2")
def test_opcheck(case: Case, device: str) -> None:
    a = operator_arguments(case, device)
    torch.library.opcheck(
        torch.ops.wassrank.sorted_losses_triton.default, a._replace(scores=a.scores.clone().requires_grad_())
    )
    outputs = torch.ops.wassrank.sorted_losses_triton(*a)
    backward = backward_arguments(a, torch.ones_like(outputs[0]), outputs)
    torch.library.opcheck(torch.ops.wassrank.sorted_losses_backward_triton.default, backward)


@named("floats_in_batch_p1", "floats_packed_p1.5", "floats_all_given_own", "floats_dense_p2")
def test_plans_give_what_the_operators_promise(case: Case) -> None:
    """Of meta tensors, which compute nothing."""
    from wassrank.triton.sorted_losses import plan_forward

    a = operator_arguments(case, "meta")
    promised = torch.ops.wassrank.sorted_losses_triton(*a)
    outputs, _ = plan_forward(a, TritonTuning())
    assert [(t.shape, t.dtype) for t in outputs] == [(t.shape, t.dtype) for t in promised]


def test_compiles_without_a_graph_break_and_gives_the_same(device: str) -> None:
    scores = torch.randn(4, 12, device=device, requires_grad=True)
    labels = torch.randn(4, 3, device=device)

    def step(s: Tensor) -> Tensor:
        return wassrank.grade_wasserstein(2 * s, labels, p=2.0, backend="triton").exp()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    (want,) = torch.autograd.grad(step(scores), scores)
    (got,) = torch.autograd.grad(compiled(scores), scores)
    assert torch.equal(got, want)


@pytest.mark.parametrize("N", [0, 1, 5, 33] if INTERPRETED else [0, 1, 5, 31, 33, 64, 200, TRITON_SORTS])
def test_order_is_the_stable_one(N: int, device: str) -> None:
    values = (4 * torch.randn(5, N, generator=torch.Generator().manual_seed(N))).round()
    if N > 4:
        values[0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
        values[1, 2] = -torch.nan
    got = short_order(values.to(device))
    assert got.dtype == torch.int32
    assert torch.equal(got.long().cpu(), values.argsort(dim=1, stable=True))


def test_order_of_what_triton_does_not_sort_is_refused(device: str) -> None:
    for values in (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, TRITON_SORTS + 1)):
        with pytest.raises(ValueError, match="Triton sorts rows of up to 256 float32"):
            short_order(values.to(device))


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="a million passages")
@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_a_million_passages(packed: bool, p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, labels = (torch.randn(2, 1_000_000, generator=generator).cuda() for _ in range(2))
    options: dict[str, Any] = {"p": p, "reduction": "none"}
    leaf = scores.double().requires_grad_()
    want = wassrank.grade_wasserstein(leaf, labels, backend="torch", **options)
    (want_gradient,) = torch.autograd.grad(want.sum(), leaf)
    if packed:
        scores, labels = scores.view(-1), labels.view(-1)
        options["offsets"] = torch.tensor([0, 1_000_000, 2_000_000], device="cuda")
    scores.requires_grad_()
    got = wassrank.grade_wasserstein(scores, labels, backend="triton", **options)
    (gradient,) = torch.autograd.grad(got.sum(), scores)
    conformance.assert_close(got.detach().double().cpu(), want.detach().cpu(), 1e-6, 2e-7)
    conformance.assert_close(gradient.double().cpu(), want_gradient.view(gradient.shape).cpu(), 1e-5, 1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="about a CUDA graph")
@pytest.mark.parametrize("options", [{}, {"p": 2.0}, {"p": 1.5, "info_nce": 0.5, "kl": 0.5}], ids=str)
@pytest.mark.parametrize("K", [8, 512])
def test_a_step_can_be_captured_in_a_cuda_graph(K: int, options: dict[str, Any]) -> None:
    scores = torch.randn(64, 512, device="cuda", requires_grad=True)
    labels = torch.randn(64, K, device="cuda")

    def step() -> tuple[Tensor, Tensor]:
        loss = wassrank.combined_loss(scores, labels, backend="triton", **options)
        return loss.detach(), torch.autograd.grad(loss, scores)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        scores.copy_(torch.randn_like(scores))
    graph.replay()
    for got, want in zip(captured, step(), strict=True):
        assert torch.equal(got, want)
