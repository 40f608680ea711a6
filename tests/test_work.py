"""What a step must move and compute, by the formulas beside the operators, is what counting in the reference finds."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from cases import CASES, Case
from test_operators import operator_arguments
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wassrank.codes import EXCLUDED, Reduction
from wassrank.ops.grade_wasserstein import backward_work, forward_work, step_work
from wassrank.reference import grade_wasserstein
from wassrank.reference.rows import dense_grades, dense_mask

every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def meta(arguments: Iterable[Any]) -> list[Any]:
    return [a.to("meta") if isinstance(a, Tensor) else a for a in arguments]


def numbered(like: Tensor) -> Tensor:
    """1, 2, 3 …: an element's number tells which one was read."""
    return torch.arange(1, like.numel() + 1).view(like.shape)


def bytes_read(scores: Tensor, labels: Tensor, target: Tensor | None, mask: Tensor | None, in_batch: int) -> int:
    """Of each tensor the elements that decide about some passage that takes part, as the reference lays rows out."""
    N = scores.shape[1]
    grades, real = dense_grades(numbered(labels), N, 0 if in_batch != EXCLUDED else None)
    elements = [(scores, numbered(scores)), (labels, grades)]
    if mask is not None:
        elements.append((mask, dense_mask(numbered(mask), scores.shape)))
    if target is not None:
        own = dense_grades(numbered(target), N, 0)[0]
        elements.append((target, numbered(target) if target.shape == scores.shape else own))
    return sum(int((ids[real].unique() > 0).sum()) * tensor.element_size() for tensor, ids in elements)


def nbytes(tensors: Iterable[Tensor | None]) -> int:
    return sum(t.nbytes for t in tensors if t is not None)


@every_case
def test_bytes_are_those_of_what_takes_part_and_of_the_results(case: Case) -> None:
    scores, labels, target, mask, weight, kind, _, *rest = operator_arguments(case)
    in_batch, num_levels = rest[:2]
    arguments = meta((scores, labels, target, mask, weight))
    empty_scores, empty_labels, _, empty_mask, _ = arguments
    loss, state, scale = torch.ops.wassrank.grade_wasserstein(*arguments, kind, Reduction.mean, *rest)
    gradient = torch.ops.wassrank.grade_wasserstein_backward(
        loss, empty_scores, empty_labels, empty_mask, state, scale, in_batch, 1.0
    )
    rows = 2 * scores.shape[0] * scores.element_size()  # losses and weights, on their way to the reduction
    forward = forward_work(*[*arguments, in_batch, num_levels])
    backward = backward_work(empty_scores, empty_labels, empty_mask, in_batch, num_levels)
    assert forward.bytes == (
        bytes_read(scores, labels, target, mask, in_batch) + nbytes([weight, loss, state, scale]) + 2 * rows
    )
    assert backward.bytes == (bytes_read(scores, labels, None, mask, in_batch) + nbytes([loss, state, scale, gradient]))
    assert forward.extra_bytes == nbytes([state, scale]) + rows
    assert backward.extra_bytes == 0
    assert step_work(*arguments, in_batch=in_batch, num_levels=num_levels) == forward + backward


class Operations(TorchDispatchMode):
    """Counts arithmetic on data as large as the scores and made from them: one an element of the larger side. Moving
    data, comparing and converting it are not counted."""

    ARITHMETIC = frozenset(["add", "sub", "mul", "div", "neg", "exp", "sum", "amax", "scatter_add"])

    def __init__(self, scores: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = scores.numel()
        self.made_from_scores = {id(scores): scores}
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs, outputs = ([t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in (args, result))
        if any(id(t) in self.made_from_scores for t in inputs):
            numbers = {id(t): t for t in outputs if t.is_floating_point()}  # a comparison's result says nothing of them
            self.made_from_scores |= numbers
            name = func._schema.name.removeprefix("aten::").rstrip("_")
            size = max(t.numel() for t in (*inputs, *outputs))
            if numbers and size == self.size and name in self.ARITHMETIC:
                self.count += size
        return result


@pytest.mark.parametrize("in_batch", [0, None])
@pytest.mark.parametrize("given", [False, True])
def test_flops_are_about_the_references(in_batch: int | None, given: bool) -> None:
    """The reference divides by temperature and by Z where the kernels scale once, and its backward goes through each of
    its forward's steps; on the other side it keeps the exponentials that the kernels compute twice. So the kernels do
    between half of what it does and all of it."""
    Q, K, num_levels = 12, 7, 4
    scores = torch.randn(Q, Q * K, requires_grad=True)
    labels = torch.randint(0, num_levels, (Q, K))
    target = torch.rand(Q, Q * K) if given else None
    forward = forward_work(scores, labels, target, None, None, EXCLUDED if in_batch is None else in_batch, num_levels)
    step = step_work(scores, labels, target, in_batch=in_batch, num_levels=num_levels)

    with Operations(scores) as counted:
        loss = grade_wasserstein(
            scores, labels, p=1.0, temperature=0.5, label_temperature=1.0,
            target="softmax" if target is None else target, mask=None, weight=None,
            in_batch=in_batch, num_levels=num_levels, reduction="mean",
        )  # fmt: skip
        of_forward = counted.count
        loss.backward()
    # The reference computes on every passage, and leaves out later those that take no part.
    _, real = dense_grades(labels, Q * K, in_batch)
    share = real.double().mean().item()
    for ours, reference in ((forward.flops, of_forward), (step.flops, counted.count)):
        assert 0.5 * share * reference <= ours <= share * reference
    assert step.flops > 1.5 * forward.flops


def test_a_given_target_costs_an_addition_a_passage_it_covers() -> None:
    scores, labels = torch.empty(6, 30, device="meta"), torch.empty(6, 5, device="meta", dtype=torch.int8)

    def flops(target: Tensor | None, in_batch: int | None) -> int:
        return step_work(scores, labels, target, in_batch=in_batch).flops

    assert flops(torch.empty_like(scores), 0) - flops(None, 0) == 6 * 30
    assert flops(torch.empty_like(scores), None) - flops(None, None) == 6 * 5
    assert flops(labels.float(), 0) - flops(None, 0) == 6 * 5


class Allocations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "empty" in func._schema.name or "ones" in func._schema.name:
            self.bytes += result.nbytes
        return result


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@every_case
def test_memory_is_what_the_triton_operators_allocate(case: Case) -> None:
    from wassrank.triton.grade_wasserstein import plan_forward
    from wassrank.triton.row_kernels import plan_backward
    from wassrank.tuning import TritonTuning

    scores, labels, target, mask, weight, kind, _, *rest = meta(operator_arguments(case))
    with Allocations() as forward:
        (loss, state, scale), _ = plan_forward(
            *[scores, labels, target, mask, weight, kind, Reduction.mean, *rest, TritonTuning()]
        )
    with Allocations() as backward:
        gradient, _ = plan_backward(loss, scores, labels, mask, state, scale, rest[0], 1.0, TritonTuning())
    work = step_work(scores, labels, target, mask, weight, in_batch=rest[0], num_levels=rest[1])
    assert work.extra_bytes == forward.bytes + backward.bytes - nbytes([loss, gradient])
