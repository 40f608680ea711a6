"""The operators as citizens of torch: opcheck, torch.compile, autocast, one backward only, gradient modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from cases import CASES, Case

import wassrank
from wassrank.codes import EXCLUDED, Reduction, Target

CHECKED = [c for c in CASES if c.name in {"in_batch", "column_mask", "dense_masked_given", "none", "no_query"}]


def operator_arguments(case: Case) -> tuple[Any, ...]:
    scores, labels, options = case.make(torch.float64)
    target = options["target"]
    in_batch = options.get("in_batch", 0)
    return (
        scores,
        labels,
        target if isinstance(target, torch.Tensor) else None,
        options.get("mask"),
        options.get("weight"),
        int(Target.given if isinstance(target, torch.Tensor) else Target[target]),
        int(Reduction[options.get("reduction", "mean")]),
        EXCLUDED if in_batch is None else in_batch,
        options.get("num_levels", 8),
        options.get("p", 1.0),
        options.get("temperature", 1.0),
        options.get("label_temperature", 1.0),
    )


@pytest.mark.parametrize("case", CHECKED, ids=lambda c: c.name)
def test_opcheck(case: Case) -> None:
    scores, *rest = operator_arguments(case)
    torch.library.opcheck(torch.ops.wassrank.grade_wasserstein.default, (scores.requires_grad_(), *rest))
    loss, state, scale = torch.ops.wassrank.grade_wasserstein.default(scores.detach(), *rest)
    arguments = (torch.ones_like(loss), scores.detach(), rest[0], rest[2], state, scale, rest[6], rest[9])
    torch.library.opcheck(torch.ops.wassrank.grade_wasserstein_backward.default, arguments)


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
    rows = wassrank.grade_wasserstein(scores, labels, reduction="none")
    upstream = torch.rand(5, dtype=torch.float64)
    (whole,) = torch.autograd.grad(rows, scores, upstream, retain_graph=True)
    for i in range(5):
        (one,) = torch.autograd.grad(rows[i], scores, retain_graph=True)
        torch.testing.assert_close(whole[i], upstream[i] * one[i])
        assert (one[torch.arange(5) != i] == 0).all()
    (expanded,) = torch.autograd.grad(rows.sum(), scores)
    torch.testing.assert_close(expanded, torch.autograd.grad(5 * wassrank.grade_wasserstein(scores, labels), scores)[0])
