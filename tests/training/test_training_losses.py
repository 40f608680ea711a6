"""Every loss by its name, and the options each refuses before training begins."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from training.errors import InputError
from training.losses import LOSSES, LossOptions, backend_name, build_loss


@pytest.mark.parametrize("name", LOSSES)
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


@pytest.mark.parametrize("from_embeddings", [False, True])
def test_real_grades_are_refused_only_where_their_order_would_be_asked_for(from_embeddings: bool) -> None:
    for name in LOSSES:
        if from_embeddings and name in ("grade_wasserstein", "listwise_kl", "combined_loss"):
            with pytest.raises(InputError, match=f"{name}: from embeddings labels must be integer grades"):
                build_loss(LossOptions(name), 0, real_grades=True, from_embeddings=True)
        else:
            build_loss(LossOptions(name), 0, real_grades=True, from_embeddings=from_embeddings)


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
        {"name": "combined_loss", "kl": -1.0},
        {"name": "combined_loss", "wasserstein": 0.0, "kl": 0.0},
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
    assert backend_name(LossOptions("info_nce"), cpu) == "native"
