"""The operators as citizens of torch: opcheck, torch.compile, autocast, one backward only, gradient modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from cases import CASES, LEVEL_CASES, Case
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import wassrank
from wassrank.arguments import Arguments, BackwardArguments, SortedArguments
from wassrank.codes import Target
from wassrank.ops import direct

CHECKED = {
    "in_batch", "column_mask", "dense_masked_given", "none", "no_query", "position", "label_temperatures",
    "info_nce_positives", "kl_given_own", "combined_given", "packed_combined_loss_masked", "packed_positives",
    "packed_kl_given", "packed_nothing",
}  # fmt: skip
FORWARDS = {
    torch.ops.wassrank.level_losses.default: Arguments,
    torch.ops.wassrank.sorted_losses.default: SortedArguments,
}


class _HandedOver(Exception):  # noqa: N818 (no error)
    def __init__(self, arguments: Arguments | SortedArguments) -> None:
        self.arguments = arguments


class _HandOver(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FORWARDS:
            raise _HandedOver(FORWARDS[func](*args))
        return func(*args, **(kwargs or {}))


def handed_over(case: Case, dtype: torch.dtype = torch.float64) -> Arguments | SortedArguments:
    """What the case's public function hands to the operator."""
    scores, labels, options = case.make(dtype)
    with pytest.raises(_HandedOver) as caught, _HandOver():  # type: ignore[no-untyped-call]
        getattr(wassrank, case.loss)(scores, labels, backend="native", **options)
    a = caught.value.arguments
    if isinstance(a, SortedArguments) and a.order is None:  # which the CPU's kernels alone find themselves
        order = wassrank.grade_order(a.labels if a.position is None else a.position, a.offsets)
        a = a._replace(order=order)
    return a


def operator_arguments(case: Case, device: str = "cpu") -> Arguments:
    """Of `wassrank::level_losses`, in float64."""
    a = handed_over(case)
    assert isinstance(a, Arguments)
    moved: dict[str, Any] = {
        name: t.to(device) for name, t in a._asdict().items() if isinstance(t, torch.Tensor) and name != "position"
    }
    return a._replace(**moved)


def backward_arguments(
    a: Arguments, grad_loss: torch.Tensor, state: torch.Tensor, scale: torch.Tensor
) -> BackwardArguments:
    """What autograd hands to the backward."""
    return BackwardArguments(
        grad_loss,
        a.scores,
        a.labels,
        a.target if a.kl else None,
        a.mask,
        a.positives if a.info_nce else None,
        a.offsets,
        state,
        scale,
        a.in_batch,
        a.num_levels,
        a.temperature,
    )


@pytest.mark.parametrize("case", [c for c in CASES if c.name in CHECKED], ids=lambda c: c.name)
def test_opcheck(case: Case) -> None:
    a = operator_arguments(case)
    differentiable = a._replace(scores=a.scores.clone().requires_grad_())
    torch.library.opcheck(torch.ops.wassrank.level_losses.default, tuple(differentiable))
    loss, state, scale = torch.ops.wassrank.level_losses.default(*a)
    assert state.shape == (case.queries, a.state_width)
    arguments = backward_arguments(a, torch.ones_like(loss), state, scale)
    torch.library.opcheck(torch.ops.wassrank.level_losses_backward.default, tuple(arguments))


def refused(a: Arguments) -> None:
    with pytest.raises((RuntimeError, ValueError), match="wassrank: "):
        torch.ops.wassrank.level_losses.default(*a)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", LEVEL_CASES, ids=lambda c: c.name)
def test_direct_calls_are_the_operators(case: Case, dtype: torch.dtype) -> None:
    a = handed_over(case, dtype)
    assert isinstance(a, Arguments)
    directly, through_torch = direct.level_losses(*a), torch.ops.wassrank.level_losses(*a)
    loss, state, scale = directly
    grad_loss = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    b = backward_arguments(a, grad_loss, state, scale)
    got = (*directly, direct.level_losses_backward(*b))
    want = (*through_torch, torch.ops.wassrank.level_losses_backward(*b))
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7))


def test_who_watches_operators_sees_them() -> None:
    scores, labels, _ = CASES[0].make(torch.float32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        wassrank.grade_wasserstein(scores.requires_grad_(), labels).backward()
    assert {"wassrank::level_losses", "wassrank::level_losses_backward"} <= {e.key for e in seen.key_averages()}
    assert not direct.serves(torch.empty(1, device="meta"))
    with FakeTensorMode():
        assert not direct.serves(torch.empty(1))


def test_operator_refuses_tensors_of_another_size() -> None:
    """Nothing is read beyond its end, whoever calls."""
    rows = Arguments(torch.randn(3, 6), torch.zeros(3, 2, dtype=torch.int64))
    packed = Arguments(torch.randn(9), torch.zeros(9, dtype=torch.int64), offsets=torch.tensor([0, 4, 4, 9]))
    torch.ops.wassrank.level_losses.default(*rows)
    torch.ops.wassrank.level_losses.default(*packed)
    given = int(Target.given)
    for a in (rows, packed):
        refused(a._replace(labels=torch.zeros(a.labels.dim() * (4,), dtype=torch.int64)))
        refused(a._replace(mask=torch.ones(5, dtype=torch.bool)))
        refused(a._replace(target=torch.ones(4), target_kind=given))
        refused(a._replace(target_kind=given))
        refused(a._replace(weight=torch.ones(4)))
        refused(a._replace(weight=torch.ones(3, dtype=torch.float64)))
        refused(a._replace(label_temperatures=torch.ones(2)))
        refused(a._replace(positives=torch.zeros(9, dtype=torch.int64)))
        refused(a._replace(positives=torch.zeros(3, dtype=torch.int32)))
        refused(a._replace(position=torch.zeros(7, dtype=torch.float64)))
        refused(a._replace(num_levels=33))
    for offsets in ([0, 4, 4, 8], [1, 4, 4, 9], [0, 12, 4, 9], [0, -1, 4, 9]):
        refused(packed._replace(offsets=torch.tensor(offsets)))
    refused(packed._replace(offsets=torch.tensor([0, 4, 9], dtype=torch.int32)))


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_compiles_without_a_graph_break_and_gives_the_same(backend: str) -> None:
    scores = torch.randn(8, 24, requires_grad=True)
    labels = torch.randint(0, 4, (8, 3))

    def step(s: torch.Tensor) -> torch.Tensor:
        return wassrank.grade_wasserstein(2 * s, labels, p=2, target="linear", backend=backend).exp()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True)
    (want,) = torch.autograd.grad(step(scores), scores)
    (got,) = torch.autograd.grad(compiled(scores), scores)
    torch.testing.assert_close(compiled(scores), step(scores))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_cross_entropy(dtype: torch.dtype) -> None:
    """A float32 loss from half scores, a gradient in the scores' dtype, the numbers of a float32 copy."""
    queries = torch.randn(6, 16, requires_grad=True)
    labels = torch.randint(0, 4, (6, 2))
    with torch.autocast("cpu", dtype=dtype):
        scores = queries @ torch.randn(16, 12)
        loss = wassrank.grade_wasserstein(scores, labels)
        like = F.cross_entropy(scores.float(), torch.arange(6))
    assert scores.dtype == dtype
    assert loss.dtype == like.dtype == torch.float32
    assert torch.equal(loss, wassrank.grade_wasserstein(scores.float(), labels))
    (gradient,) = torch.autograd.grad(loss, scores, retain_graph=True)
    assert gradient.dtype == dtype
    loss.backward()
    assert queries.grad is not None
    assert queries.grad.dtype == torch.float32


def test_second_derivative_is_refused_with_the_remedy() -> None:
    scores = torch.randn(3, 6, requires_grad=True)
    labels = torch.randint(0, 4, (3, 2))
    loss = wassrank.grade_wasserstein(scores, labels, backend="native")
    (gradient,) = torch.autograd.grad(loss, scores, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='torch'"):
        gradient.sum().backward()


def test_no_graph_is_kept_where_none_is_wanted() -> None:
    scores, labels = torch.randn(3, 6, requires_grad=True), torch.randint(0, 4, (3, 2))
    with torch.no_grad():
        assert not wassrank.grade_wasserstein(scores, labels).requires_grad
    with torch.inference_mode():
        wassrank.grade_wasserstein(scores, labels)
    assert not wassrank.grade_wasserstein(scores.detach(), labels).requires_grad


def test_upstream_gradient_scales_every_row() -> None:
    scores, labels = torch.randn(5, 10, dtype=torch.float64, requires_grad=True), torch.randint(0, 4, (5, 2))
    rows = wassrank.grade_wasserstein(scores, labels, target="softmax", reduction="none")
    upstream = torch.rand(5, dtype=torch.float64)
    (whole,) = torch.autograd.grad(rows, scores, upstream, retain_graph=True)
    for i in range(5):
        (one,) = torch.autograd.grad(rows[i], scores, retain_graph=True)
        torch.testing.assert_close(whole[i], upstream[i] * one[i])
        assert (one[torch.arange(5) != i] == 0).all()
    (expanded,) = torch.autograd.grad(rows.sum(), scores)
    mean = wassrank.grade_wasserstein(scores, labels, target="softmax")
    torch.testing.assert_close(expanded, 5 * torch.autograd.grad(mean, scores)[0])
