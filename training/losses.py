"""The losses the trainer offers, by name. All are called alike, loss(scores, grades, mask=mask) → float32 scalar, or
loss.from_embeddings(queries, passages, grades, mask=mask), which never stores the scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import wassrank
from training.errors import InputError
from training.judgements import REAL

Loss = (
    wassrank.GradeWassersteinLoss
    | wassrank.GaussianWassersteinLoss
    | wassrank.InfoNCELoss
    | wassrank.ListwiseKLLoss
    | wassrank.CombinedLoss
)

# By the name of wassrank's function: the module, and which of LossOptions it has beside those all have.
_TARGET = ("label_temperature", "target")
_MODULES: dict[str, tuple[Callable[..., Loss], tuple[str, ...]]] = {
    "grade_wasserstein": (wassrank.GradeWassersteinLoss, ("p", *_TARGET)),
    "gaussian_wasserstein": (wassrank.GaussianWassersteinLoss, _TARGET),
    "info_nce": (wassrank.InfoNCELoss, ()),
    "listwise_kl": (wassrank.ListwiseKLLoss, _TARGET),
    "combined_loss": (wassrank.CombinedLoss, ("p", *_TARGET, "wasserstein", "info_nce", "kl")),
}
LOSSES = tuple(_MODULES)

GAINS = ("linear", "exp2")  # targets that are normalised gains
HIGHEST_LEVEL = 31  # wassrank's num_levels is at most 32
HIGHEST_EXP2 = 100.0  # float32 ends at 2^128, and a batch's gains are added up


@dataclass(frozen=True)
class LossOptions:
    """Options as `wassrank` spells them; a loss takes those it knows.

    The defaults, for embeddings of length 1, are the setting that ranked held-out queries best in docs/study.md.
    """

    name: str = "combined_loss"
    p: float = 1.0
    temperature: float = 0.1
    label_temperature: float = 1.0
    target: str = "auto"
    in_batch: int | None = 0  # the grade of other queries' passages; None leaves them out
    wasserstein: float = 1.0  # combined_loss: the losses' factors
    info_nce: float = 0.0
    kl: float = 1.0
    backend: str = "auto"


def build_loss(
    options: LossOptions, highest_grade: int, real_grades: bool = False, from_embeddings: bool = False
) -> Loss:
    """The loss for grades 0 … highest_grade, or for real numbers.

    Raises:
        InputError: an option the loss refuses, or grades that it does not take, of scores or of embeddings: now, not
            after the first evaluation has been paid for.
    """
    if options.name not in _MODULES:
        raise InputError(f"loss must be one of {LOSSES}, got {options.name!r}")
    module, own = _MODULES[options.name]
    given: dict[str, Any] = {name: getattr(options, name) for name in ("temperature", "in_batch", "backend", *own)}
    loss = module(**given, num_levels=max(highest_grade, options.in_batch or 0) + 1)
    grades = torch.zeros(1, 1, dtype=torch.float32 if real_grades else torch.int64)
    mask = torch.ones(1, 1, dtype=torch.bool)
    try:
        if from_embeddings:
            loss.from_embeddings(torch.zeros(1, 1), torch.zeros(1, 1), grades, mask=mask)
        else:
            loss(torch.zeros(1, 1), grades, mask=mask)
    except (ValueError, TypeError) as error:
        raise InputError(f"loss {options.name}: {error}") from error
    return loss


def known_options(name: str) -> tuple[str, ...]:
    """Which of LossOptions the loss of this name takes, `in_batch` and `backend` aside, which all take."""
    return ("temperature", *_MODULES[name][1])


def check_grades(options: LossOptions, highest: float, real_grades: bool = False) -> None:
    """Raises:
    InputError: `highest`, the highest grade there is, has no place among the loss's levels, or no target.
    """
    if not real_grades and highest > HIGHEST_LEVEL:
        raise InputError(
            f"the highest grade is {highest:g}, but integer grades are levels up to {HIGHEST_LEVEL}: map them with "
            f"score_transform, or take them as real numbers, score_transform: {REAL}"
        )
    target = options.target
    if target == "auto":
        target = "softmax" if real_grades else "linear"  # as wassrank takes it
    if options.name == "info_nce" or target not in GAINS:
        return
    if highest <= 0:
        raise InputError(f"target {target} gives nothing to grades up to {highest:g}: nothing would be learnt")
    if target == "exp2" and highest > HIGHEST_EXP2:
        raise InputError(f"target exp2 has no number for the grade {highest:g}: take target linear or softmax")


def wants_all_scores(options: LossOptions) -> bool:
    """Whether each query is scored against all passages of the batch, or only against its own.

    Where other queries' passages are left out, a loss of rows has no use for their scores. To the Gaussian distance a
    column is a passage, so that columns which queries share would be another loss.
    """
    return options.in_batch is not None or options.name == "gaussian_wasserstein"


def backend_name(options: LossOptions, device: torch.device) -> str:
    """Which implementation runs `options` on `device`."""
    return wassrank.resolve_backend(device, options.backend)
