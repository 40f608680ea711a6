"""`wassrank.testing.check_adapter` must pass what is right and name each mistake of what is not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import wassrank
from wassrank.testing import CONVENTIONS, AdapterError, check_adapter

EXPECTED: dict[str, Any] = {
    "grade": wassrank.GradeWassersteinLoss(temperature=0.5, label_temperature=2, p=2, target="softmax"),
    "gaussian": wassrank.GaussianWassersteinLoss(temperature=0.5, target="exp2"),
    "nce": wassrank.InfoNCELoss(temperature=0.5),
    "own passages": wassrank.ListwiseKLLoss(temperature=0.5, target="linear", in_batch=None),
}


def by_query(scores: Tensor, labels: Tensor) -> Tensor:
    """Query-major columns of column-major ones."""
    Q, K = labels.shape
    return scores.view(-1, K, Q).transpose(1, 2).reshape(Q, Q * K)


def right(core: Any, convention: str) -> Callable[..., Tensor]:
    def loss(*inputs: Any, mask: Tensor | None = None) -> Tensor:
        *given, labels = inputs
        if convention == "columns":
            queries, *columns = given[0]
            given = [queries, torch.stack(columns, 1).flatten(0, 1)]
        if convention in ("columns", "embeddings"):
            given = [given[0] @ given[1].T]
        scores = by_query(given[0], labels) if convention == "column-major" else given[0]
        result: Tensor = core(scores, labels, mask=mask)
        return result

    return loss


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_right_passes(name: str, convention: str) -> None:
    loss = right(EXPECTED[name], convention)
    check_adapter(loss, convention=convention, expected=EXPECTED[name], padding="mask")
    check_adapter(loss, convention=convention, expected=EXPECTED[name])


def test_a_float32_adapter_passes() -> None:
    core = EXPECTED["grade"]
    check_adapter(lambda s, y: core(s.float(), y), convention="query-major", expected=core)


def test_padding_may_be_a_label() -> None:
    core = EXPECTED["grade"]
    loss = lambda s, y: core(s, y.clamp(min=0), mask=y >= 0)  # noqa: E731
    check_adapter(loss, convention="query-major", expected=core, padding=-100)


CORE = EXPECTED["grade"]


Adapter = Callable[..., Tensor]
WRONG: dict[str, tuple[str, Adapter, tuple[str, ...]]] = {}


def wrong(convention: str, *findings: str) -> Callable[[Adapter], Adapter]:
    def keep(loss: Adapter) -> Adapter:
        WRONG[loss.__name__] = convention, loss, findings
        return loss

    return keep


@wrong("query-major", "transposed: .* query by query, they are read column")
def query_major_taken_for_column_major(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(by_query(s, y), y, mask=mask)


@wrong("column-major", "transposed: .* column by column, they are read query")
def column_major_taken_for_query_major(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y, mask=mask)


@wrong("columns", "transposed: .* column by column, they are read query")
def columns_one_behind_the_other(e: list[Tensor], y: Tensor, mask: Any = None) -> Any:
    return CORE(e[0] @ torch.cat(e[1:]).T, y, mask=mask)


@wrong("own", "transposed labels")
def labels_column_by_column(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y.T.reshape(y.shape), mask=mask)


@wrong("query-major", "unscaled")
def no_temperature(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y, mask=mask, temperature=1.0)


@wrong("query-major", "scaled twice")
def temperature_twice(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s / 0.5, y, mask=mask)


@wrong("query-major", "another temperature: scores are divided by 0.07, not by 0.5")
def somebody_elses_temperature(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y, mask=mask, temperature=0.07)


@wrong("own", "scaled the wrong way")
def scale_for_temperature(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y, mask=mask, temperature=2.0)


@wrong("query-major", "unmasked")
def no_mask(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y)


@wrong("own", "the mask is read the other way round")
def mask_of_padding(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y, mask=None if mask is None else ~mask)


@wrong("query-major", "other queries' passages are left out")
def own_passages_alone(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return wassrank.GradeWassersteinLoss(**CORE.options | {"in_batch": None})(s, y, mask=mask)


@wrong("own", "labels are not divided by label_temperature")
def no_label_temperature(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y, mask=mask, label_temperature=1.0)


@wrong("own", "the target is linear, not 'softmax'")
def another_target(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y, mask=mask, target="linear")


@wrong("own", "reduced by sum, not mean")
def a_sum_of_rows(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y, mask=mask, reduction="sum")


@wrong("embeddings", "embeddings are normalised")
def cosines(q: Tensor, p: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(normalize(q, dim=1) @ normalize(p, dim=1).T, y, mask=mask)


@wrong("own", "detached")
def no_gradient(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s.detach(), y, mask=mask)


@wrong("query-major", "another temperature: scores are divided by 5, ", "reduced by sum, not mean")
def a_sum_at_another_temperature(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y, mask=mask, temperature=5.0, reduction="sum")


@wrong("own", "multiplied by 0.5")
def half_of_it(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y, mask=mask) / 2


@wrong("own", "gradients are 2 times")
def gradients_of_two_processes(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    loss = CORE(s, y, mask=mask)
    return 2 * loss - loss.detach()


@wrong("column-major", "transposed: ", "unscaled", "unmasked")
def three_at_once(s: Tensor, y: Tensor, mask: Any = None) -> Any:
    return CORE(s, y, temperature=1.0)


@pytest.mark.parametrize("name", WRONG)
def test_each_mistake_is_named_and_no_other(name: str) -> None:
    convention, loss, findings = WRONG[name]
    with pytest.raises(AdapterError) as raised:
        check_adapter(loss, convention=convention, expected=CORE, padding="mask")
    assert len(raised.value.findings) == len(findings), raised.value
    for found, expected in zip(raised.value.findings, findings, strict=True):
        assert re.search(expected, found), found


def test_the_batch_statistic_is_told_apart_too() -> None:
    core = EXPECTED["gaussian"]
    with pytest.raises(AdapterError, match="transposed: "):
        check_adapter(lambda s, y: core(s, y), convention="column-major", expected=core)


def test_what_nothing_explains_is_said_with_its_numbers() -> None:
    with pytest.raises(AdapterError, match=r"no mistake that is known.*got .*, expected "):
        check_adapter(lambda s, y: (s * y.float().mean()).square().mean(), convention="own", expected=CORE)


def test_an_error_of_the_adapter_is_a_finding() -> None:
    with pytest.raises(AdapterError, match=r"TypeError: .*mask.*unmasked"):
        check_adapter(lambda s, y: CORE(s, y), convention="own", expected=CORE, padding="mask")
    with pytest.raises(AdapterError, match="raised for 4 queries with 3 passages each: ValueError"):
        check_adapter(lambda s, y: CORE(s, y[:2]), convention="own", expected=CORE)


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(ValueError, match="convention must be one of"):
        check_adapter(lambda s, y: CORE(s, y), convention="rows", expected=CORE)
    with pytest.raises(ValueError, match="once they have joined"):
        check_adapter(lambda q, p, y: CORE(q @ p.T, y), convention="embeddings", expected=CORE, shared=True)
    with pytest.raises(ValueError, match="'dot' or 'cosine'"):
        check_adapter(lambda s, y: CORE(s, y), convention="own", expected=CORE, similarity="cos")
