"""The losses the trainer offers, by name. All are called alike: loss(scores, grades, mask=mask) → float32
scalar."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import wassrank
from training.errors import InputError

LOSSES = ("grade_wasserstein", "info_nce")


@dataclass(frozen=True)
class LossOptions:
    """Options as `wassrank` spells them; InfoNCE knows only temperature and in_batch."""

    name: str = "grade_wasserstein"
    p: float = 1.0
    temperature: float = 0.05
    label_temperature: float = 1.0
    target: str = "linear"
    in_batch: int | None = 0  # the grade of other queries' passages; None leaves them out
    backend: str = "auto"


def build_loss(options: LossOptions, highest_grade: int) -> nn.Module:
    """The loss for grades 0 … highest_grade.

    Raises:
        InputError: an option the loss refuses: now, not after the first evaluation has been paid for.
    """
    loss: nn.Module
    if options.name == "info_nce":
        loss = InfoNCELoss(temperature=options.temperature, in_batch=options.in_batch)
    elif options.name == "grade_wasserstein":
        loss = wassrank.GradeWassersteinLoss(
            p=options.p,
            temperature=options.temperature,
            label_temperature=options.label_temperature,
            target=options.target,
            in_batch=options.in_batch,
            num_levels=max(highest_grade, options.in_batch or 0) + 1,
            backend=options.backend,
        )
    else:
        raise InputError(f"loss must be one of {LOSSES}, got {options.name!r}")
    try:
        loss(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64), mask=torch.ones(1, 1, dtype=torch.bool))
    except ValueError as error:
        raise InputError(f"loss {options.name}: {error}") from error
    return loss


def backend_name(options: LossOptions, device: torch.device) -> str:
    """Which implementation runs `options` on `device`."""
    if options.name == "info_nce":
        return "torch"
    return wassrank.resolve_backend(device, options.backend)


class InfoNCELoss(nn.Module):
    """Cross-entropy of the row's best-graded passage (the first of equals) against all others.

    All others are negatives, whatever their grade, other queries' passages included unless in_batch is None.
    Plain torch, to be replaced by wassrank's own.

    Shape:
        scores [Q, K] or, query-major, [Q, Q·K]; labels and mask [Q, K], each row with at least one real
        passage. Returns the mean over rows, a float32 scalar.
    """

    def __init__(self, *, temperature: float = 1.0, in_batch: int | None = 0) -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError(f"temperature must be > 0, got {temperature}: scores are divided by it")
        self.temperature = temperature
        self.in_batch = in_batch

    def forward(self, scores: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
        Q, K = labels.shape
        real = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
        positive = labels.masked_fill(~real, -1).argmax(dim=1)  # [Q]
        candidates = real  # [Q, N]
        if scores.shape[1] != K:
            own = torch.arange(Q, device=scores.device)
            positive = positive + K * own
            candidates = real.flatten().expand(Q, Q * K)
            if self.in_batch is None:
                candidates = candidates & torch.eye(Q, dtype=torch.bool, device=scores.device).repeat_interleave(K, 1)
        logits = (scores.float() / self.temperature).masked_fill(~candidates, -torch.inf)
        return nn.functional.cross_entropy(logits, positive)
