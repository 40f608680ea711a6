"""InfoNCE against its definition, and the options every loss refuses before training begins."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from training.errors import InputError
from training.losses import InfoNCELoss, LossOptions, backend_name, build_loss


def test_info_nce_is_the_cross_entropy_of_the_best_graded_passage() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.5]])
    loss = InfoNCELoss(temperature=0.5)(scores, torch.tensor([[0, 1, 3]]))
    expected = -torch.log_softmax(scores / 0.5, dim=1)[0, 2]
    torch.testing.assert_close(loss, expected)


def test_info_nce_takes_other_queries_passages_as_negatives() -> None:
    scores = torch.randn(3, 6)
    loss = InfoNCELoss()(scores, torch.tensor([[1, 0], [0, 2], [3, 1]]))
    rows = torch.log_softmax(scores, dim=1)
    torch.testing.assert_close(loss, -(rows[0, 0] + rows[1, 3] + rows[2, 4]) / 3)


def test_info_nce_without_in_batch_sees_own_passages_only() -> None:
    scores = torch.randn(3, 6)
    labels = torch.tensor([[1, 0], [0, 2], [3, 1]])
    own = torch.stack([scores[i, 2 * i : 2 * i + 2] for i in range(3)])
    loss = InfoNCELoss(in_batch=None)
    torch.testing.assert_close(loss(scores, labels), loss(own, labels))


def test_padding_changes_nothing() -> None:
    labels = torch.tensor([[3, 0], [2, 1]])
    scores = torch.randn(2, 4)
    wide = torch.full((2, 6), 100.0)
    wide[:, [0, 1, 3, 4]] = scores
    wide.requires_grad_()
    wide_labels = torch.tensor([[3, 0, 9], [2, 1, 9]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    loss = InfoNCELoss()(wide, wide_labels, mask=mask)
    torch.testing.assert_close(loss, InfoNCELoss()(scores, labels))
    loss.backward()
    assert wide.grad is not None
    assert wide.grad[:, [2, 5]].abs().max() == 0


@pytest.mark.parametrize("name", ["info_nce", "grade_wasserstein"])
@pytest.mark.parametrize("in_batch", [0, None])
def test_all_losses_are_called_alike(name: str, in_batch: int | None) -> None:
    loss = build_loss(LossOptions(name, in_batch=in_batch), highest_grade=3)
    scores = torch.randn(4, 12, requires_grad=True)
    labels = torch.tensor([[3, 2, 0]]).expand(4, 3)
    value = loss(scores, labels, mask=torch.tensor([[True, True, False]]).expand(4, 3))
    assert value.shape == ()
    assert value.dtype == torch.float32
    value.backward()
    assert scores.grad is not None
    assert scores.grad.abs().max() > 0


@pytest.mark.parametrize(
    "change",
    [
        {"name": "nothing"},
        {"p": 0.5},
        {"temperature": 0.0},
        {"target": "cubic"},
        {"backend": "abacus"},
        {"in_batch": -1},
        {"name": "info_nce", "temperature": -1.0},
    ],
)
def test_a_bad_option_is_refused_when_the_loss_is_built(change: dict[str, object]) -> None:
    options = dataclasses.replace(LossOptions(), **change)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        build_loss(options, highest_grade=3)


def test_grades_beyond_the_usual_are_allowed_for() -> None:
    loss = build_loss(LossOptions(), highest_grade=20)
    assert torch.isfinite(loss(torch.randn(2, 3), torch.tensor([[20, 0, 3], [1, 2, 19]])))


def test_the_backend_that_runs_is_named() -> None:
    cpu = torch.device("cpu")
    assert backend_name(LossOptions(backend="torch"), cpu) == "torch"
    assert backend_name(LossOptions("info_nce"), cpu) == "torch"
