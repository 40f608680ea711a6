"""What a step must move and compute, by the formulas beside the operators, is what counting in the reference finds."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import pytest
import test_triton_sorted
import torch
from cases import LEVEL_CASES as CASES
from cases import SORTED_CASES, Case
from test_operators import backward_arguments, operator_arguments
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wassrank.arguments import Arguments, SortedArguments
from wassrank.codes import EXCLUDED, Reduction
from wassrank.ops import sorted_losses
from wassrank.ops.level_losses import backward_work, forward_work, step_work
from wassrank.reference import Terms, graded_loss
from wassrank.reference.rows import dense_grades, dense_mask

every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def meta(a: Arguments) -> Arguments:
    """Empty tensors; position, which is on the CPU whatever the device, stays."""
    tensors: dict[str, Any] = {
        name: t.to("meta") for name, t in a._asdict().items() if isinstance(t, Tensor) and name != "position"
    }
    return a._replace(**tensors)


def nbytes(tensors: Iterable[Tensor | None]) -> int:
    return sum(t.nbytes for t in tensors if t is not None)


def bytes_read(a: Arguments | SortedArguments, *tensors: Tensor | None) -> int:
    """Of each tensor, and of scores and mask, the elements that decide about some passage that takes part, as the
    reference lays rows out."""
    a_passage_each = [t for t in (a.scores, a.mask, *tensors) if t is not None]
    if a.offsets is not None:
        return nbytes(a_passage_each)
    N = a.scores.shape[1]
    _, own, real = dense_grades(a.labels, N, None if a.in_batch == EXCLUDED else 0)
    found = 0
    for tensor in a_passage_each:
        # 1, 2, 3 …: an element's number tells which one was read.
        number = torch.arange(1, tensor.numel() + 1).view(tensor.shape)
        if tensor is a.mask:
            number = dense_mask(number, a.scores.shape)
        elif tensor.shape != a.scores.shape:
            number = torch.where(own, number.view(-1), 0)
        found += int((number[real].unique() > 0).sum()) * tensor.element_size()
    return found


every_sorted_case = pytest.mark.parametrize("case", SORTED_CASES, ids=lambda c: c.name)


@every_case
def test_bytes_are_those_of_what_takes_part_and_of_the_results(case: Case) -> None:
    a = operator_arguments(case)._replace(reduction=int(Reduction.mean))
    empty = meta(a)
    loss, state, scale = torch.ops.wassrank.level_losses(*empty)
    gradient = torch.ops.wassrank.level_losses_backward(*backward_arguments(empty, loss, state, scale))
    rows = 2 * case.queries * a.scores.element_size()  # losses and weights, on their way to the reduction
    forward, backward = forward_work(empty), backward_work(empty)
    assert forward.bytes == (
        bytes_read(a, a.labels, a.target)
        + nbytes([a.weight, a.label_temperatures, a.positives, a.offsets, loss, state, scale])
        + 2 * rows
    )
    assert backward.bytes == (
        bytes_read(a, a.labels, a.target if a.kl else None)
        + nbytes([a.positives if a.info_nce else None, a.offsets, loss, state, scale, gradient])
    )
    assert forward.extra_bytes == nbytes([state, scale]) + rows
    assert backward.extra_bytes == 0
    assert step_work(empty) == forward + backward


@every_sorted_case
def test_sorted_bytes_are_those_of_what_takes_part_and_of_the_results(case: Case) -> None:
    a = test_triton_sorted.operator_arguments(case)._replace(reduction=int(Reduction.mean))
    empty = test_triton_sorted.operator_arguments(case, "meta")._replace(reduction=int(Reduction.mean))
    loss, coefficient, constant, state, scale = torch.ops.wassrank.sorted_losses(*empty)
    rows = 2 * case.queries * a.scores.element_size()  # losses and weights, on their way to the reduction
    row_inputs = [a.weight, a.label_temperatures, a.positives, a.offsets]
    kept = [coefficient, constant, state, scale]
    forward, backward = sorted_losses.forward_work(empty), sorted_losses.backward_work(empty)
    assert forward.bytes == (
        bytes_read(a, a.labels, a.order, a.target, a.position) + nbytes([*row_inputs, loss, *kept]) + 2 * rows
    )
    others = 0
    if a.kl and a.target is not None and a.target.shape == a.scores.shape and a.in_batch != EXCLUDED:
        others = bytes_read(a, a.target) - bytes_read(a, a.labels)
    assert backward.bytes == (
        bytes_read(a, a.labels, a.labels if a.affine else None)
        + others
        + nbytes([a.offsets, loss, state, scale, a.scores])
    )
    line = 0 if a.p == 1 else 32 * (a.labels.numel() + (case.queries if others_take_part(a) else 0))
    assert forward.extra_bytes == nbytes(kept) + rows + line
    assert backward.extra_bytes == 0
    assert sorted_losses.step_work(empty) == forward + backward


def others_take_part(a: SortedArguments) -> bool:
    return a.scores.numel() > a.labels.numel() and a.in_batch != EXCLUDED


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


@pytest.mark.parametrize("terms", [Terms(wasserstein=1.0), Terms(kl=1.0)], ids=str)
@pytest.mark.parametrize("in_batch", [0, EXCLUDED])
@pytest.mark.parametrize("given", [False, True])
def test_flops_are_about_the_references(in_batch: int, given: bool, terms: Terms) -> None:
    """The reference divides by temperature and by Z where the kernels scale once, and its backward goes through each of
    its forward's steps; on the other side it keeps the exponentials that the kernels compute twice. So the kernels do
    between half of what it does and all of it. (Not so for InfoNCE, whose reference adds up only the positives' logits,
    and for several losses, which the reference computes one by one.)"""
    Q, K, num_levels = 12, 7, 4
    scores = torch.randn(Q, Q * K, requires_grad=True)
    labels = torch.randint(0, num_levels, (Q, K))
    target = torch.rand(Q, Q * K) if given else None
    a = Arguments(scores, labels, target, **asdict(terms), in_batch=in_batch, num_levels=num_levels)
    forward, step = forward_work(a), step_work(a)

    with Operations(scores) as counted:
        loss = graded_loss(
            scores, labels, terms, p=1.0, temperature=0.5, label_temperature=1.0,
            target="softmax" if target is None else target, mask=None, weight=None,
            in_batch=None if in_batch == EXCLUDED else in_batch, num_levels=num_levels, position=None,
            positives=None, negative_grade=None, offsets=None, reduction="mean",
        )  # fmt: skip
        of_forward = counted.count
        loss.backward()
    # The reference computes on every passage, and leaves out later those that take no part.
    _, _, real = dense_grades(labels, Q * K, None if in_batch == EXCLUDED else in_batch)
    share = real.double().mean().item()
    for ours, reference in ((forward.flops, of_forward), (step.flops, counted.count)):
        assert 0.5 * share * reference <= ours <= share * reference
    assert step.flops > 1.5 * forward.flops


def test_a_given_target_costs_an_addition_a_passage_it_covers() -> None:
    scores, labels = torch.empty(6, 30, device="meta"), torch.empty(6, 5, device="meta", dtype=torch.int8)

    def flops(target: Tensor | None, in_batch: int) -> int:
        return step_work(Arguments(scores, labels, target, in_batch=in_batch)).flops

    assert flops(torch.empty_like(scores), 0) - flops(None, 0) == 6 * 30
    assert flops(torch.empty_like(scores), EXCLUDED) - flops(None, EXCLUDED) == 6 * 5
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
    from wassrank.triton.level_losses import plan_forward
    from wassrank.triton.row_kernels import plan_backward
    from wassrank.tuning import TritonTuning

    a = meta(operator_arguments(case))._replace(reduction=int(Reduction.mean), position=None)
    with Allocations() as forward:
        (loss, state, scale), _ = plan_forward(a, TritonTuning())
    with Allocations() as backward:
        gradient, _ = plan_backward(backward_arguments(a, loss, state, scale), TritonTuning())
    assert step_work(a).extra_bytes == forward.bytes + backward.bytes - nbytes([loss, gradient])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@every_sorted_case
def test_memory_is_what_the_sorted_triton_operators_allocate(case: Case) -> None:
    """But for some numbers a row, between the kernels that p other than 1 takes."""
    from wassrank.triton.row_kernels import plan_sorted_backward
    from wassrank.triton.sorted_losses import plan_forward
    from wassrank.tuning import TritonTuning

    a = test_triton_sorted.operator_arguments(case, "meta")._replace(reduction=int(Reduction.mean))
    with Allocations() as forward:
        outputs, launches = plan_forward(a, TritonTuning())
    with Allocations() as backward:
        gradient, _ = plan_sorted_backward(
            test_triton_sorted.backward_arguments(a, outputs[0], outputs), TritonTuning()
        )
    a_row = {id(t): t for launch in launches for n, t in launch.arguments.items() if n in {"record", "partial_cost"}}
    left = forward.bytes + backward.bytes - nbytes([outputs[0], gradient, *a_row.values()])
    assert sorted_losses.step_work(a).extra_bytes == left
    points = a.labels.numel() + case.queries
    assert nbytes(a_row.values()) <= (0 if a.p == 1 else 8 * (13 * case.queries + points // 32))


def test_a_labelled_passage_costs_its_walk_and_any_other_a_term_of_the_softmax() -> None:
    scores, labels = torch.empty(6, 30, device="meta"), torch.empty(6, 5, device="meta")

    def flops(scores: Tensor, p: float = 1.0, kl: float = 0.0) -> int:
        order = torch.empty_like(labels, dtype=torch.int32)
        return sorted_losses.step_work(SortedArguments(scores, labels, order, p=p, kl=kl)).flops

    a_term = step_work(Arguments(scores, labels.to(torch.int8))).flops / scores.numel()
    walk = flops(scores) - flops(scores[:, :5])
    assert 0.9 * a_term <= walk / (6 * 25) <= a_term
    assert 15 <= flops(scores[:, :5]) / (6 * 5) - a_term <= 25
    assert flops(scores, p=2.0) > flops(scores)
    assert flops(scores, kl=1.0) > flops(scores)
