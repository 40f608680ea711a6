"""What takes part in a study: losses, each with the settings it may choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from training.errors import InputError
from training.losses import LossOptions, build_loss, known_options, wants_all_scores
from training.sources import read_yaml

FILE = Path(__file__).parent / "contestants.yaml"

Contestants = Mapping[str, Sequence["Setting"]]
"""name → what it may choose from"""


@dataclass(frozen=True)
class Setting:
    """A loss with its options.

    Args:
        positives_from: grades from here up count as 1 and all others as 0. None: grades are what they are.
    """

    loss: LossOptions
    positives_from: int | None = None

    def build(self, highest_grade: int) -> nn.Module:
        """The loss, called as loss(scores, grades, mask=mask).

        Raises:
            InputError: an option that the loss refuses, or no passage could be a positive.
        """
        if self.positives_from is None:
            return build_loss(self.loss, highest_grade)
        if not 1 <= self.positives_from <= highest_grade:
            raise InputError(f"positives_from must be a grade from 1 to {highest_grade}, got {self.positives_from}")
        return _Binary(build_loss(self.loss, 1), self.positives_from)

    @property
    def in_batch(self) -> bool:
        return wants_all_scores(self.loss)

    def told(self) -> dict[str, Any]:
        """All that this loss is told, by name, and nothing that it does not know; `restored` makes it again.
        label_temperature only where the target is a softmax."""
        options = {name: getattr(self.loss, name) for name in ("name", "in_batch", *known_options(self.loss.name))}
        if options.get("target") != "softmax":
            options.pop("label_temperature", None)
        return options if self.positives_from is None else options | {"positives_from": self.positives_from}

    @classmethod
    def restored(cls, told: Mapping[str, Any]) -> Setting:
        """From what `told` gave."""
        options = {name: value for name, value in told.items() if name != "positives_from"}
        return cls(LossOptions(**options), told.get("positives_from"))


class _Binary(nn.Module):
    """A loss that is told only which passages are positives."""

    def __init__(self, loss: nn.Module, positives_from: int) -> None:
        super().__init__()
        self.loss = loss
        self.positives_from = positives_from

    def forward(self, scores: Tensor, grades: Tensor, *, mask: Tensor) -> Tensor:
        value: Tensor = self.loss(scores, (grades >= self.positives_from).to(grades.dtype), mask=mask)
        return value


def read_contestants(file: Path, highest_grade: int) -> dict[str, list[Setting]]:
    """The contestants of a YAML file: name → option → value, or list of alternatives.

    Raises:
        InputError: no YAML, an unknown option, or settings that their loss refuses, of grades 0 … highest_grade.
    """
    content = read_yaml(file)
    if not isinstance(content, dict) or not content:
        raise InputError(f"{file}: must map names of contestants to their options, got {content!r}")
    found: dict[str, list[Setting]] = {}
    for name, options in content.items():
        if not isinstance(name, str) or not isinstance(options, dict):
            raise InputError(f"{file}: {name}: must be a name and a mapping of options, got {options!r}")
        try:
            found[name] = _settings(options)
            for setting in found[name]:
                setting.build(highest_grade)
        except InputError as error:
            raise InputError(f"{file}: {name}: {error}") from error
    return found


def _settings(options: Mapping[str, Any]) -> list[Setting]:
    """Every combination of the alternatives."""
    alternatives = [
        [one if isinstance(one, dict) else {name: one} for one in (value if isinstance(value, list) else [value])]
        for name, value in options.items()
    ]
    return [
        _setting({name: value for one in chosen for name, value in one.items()}) for chosen in product(*alternatives)
    ]


def _setting(options: Mapping[str, Any]) -> Setting:
    known = {one.name for one in fields(LossOptions)} - {"name"}
    given = {name: value for name, value in options.items() if name not in ("loss", "positives_from")}
    if unknown := sorted(map(str, given.keys() - known)):
        raise InputError(f"{unknown[0]}: no such option; there are loss, positives_from, {', '.join(sorted(known))}")
    if "loss" not in options:
        raise InputError("names no loss")
    try:
        return Setting(replace(LossOptions(options["loss"]), **given), options.get("positives_from"))
    except TypeError as error:
        raise InputError(str(error)) from error
