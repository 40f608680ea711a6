"""Recipes: a YAML file that says what `training.train` is otherwise told on its command line.

    base: paper.yaml                # another recipe, whose options hold where this one has none
    loss: gaussian_wasserstein      # --loss gaussian_wasserstein
    data: data/synthetic.yaml       # relative to the recipe's folder
    learning_rate: 1e-5             # Hugging Face's arguments too
    small:                          # what --small puts in the place of the above: for a machine without a GPU
      data: data/small/synthetic.yaml
      model: null                   # null: the default

A recipe becomes arguments that stand before those of the command line, which therefore win.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import InputError
from training.sources import read_yaml

RECIPES = Path(__file__).parent / "recipes"
PATHS = ("data",)  # options that name a file, relative to the recipe
FLAG_ONLY = "trust_remote_code"  # an option that a file may not give: whoever runs it decides


@dataclass(frozen=True)
class Recipe:
    file: Path
    options: Mapping[str, Any]
    small: Mapping[str, Any]

    def arguments(self, parser: argparse.ArgumentParser, others: Iterable[str], small: bool) -> list[str]:
        """The recipe as a command line for `parser`, or for the one that knows the names in `others`.

        Raises:
            InputError: an option that neither knows, or a value that no command line can hold.
        """
        own = {action.dest: action for action in parser._actions}
        known = {*own, *others}
        arguments: list[str] = []
        for name, value in {**self.options, **(self.small if small else {})}.items():
            if name not in known:
                raise InputError(f"{self.file}: {name}: no such option")
            if name == FLAG_ONLY:
                raise InputError(f"{self.file}: {name}: no recipe decides that; it is a flag of the command line")
            arguments += _argument(name, value, own.get(name), self.file)
        return arguments


def read_recipe(name: str) -> Recipe:
    """A recipe by its file, or by the name of one in `recipes/`.

    Raises:
        InputError: there is none, or it is no recipe.
    """
    bundled = RECIPES / f"{name}.yaml"
    if not Path(name).exists() and not bundled.is_file():
        names = ", ".join(sorted(file.stem for file in RECIPES.glob("*-*.yaml")))
        raise InputError(f"--recipe {name}: no such file, nor one of {names}")
    return _read(Path(name) if Path(name).exists() else bundled, ())


def _read(file: Path, above: Sequence[Path]) -> Recipe:
    if file.resolve() in above:
        raise InputError(f"{file}: base: is based on itself")
    content = read_yaml(file)
    small = content.pop("small", {}) if isinstance(content, dict) else {}
    for options in (content, small):
        if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
            raise InputError(f"{file}: must be a mapping of options to values, got {options!r}")
        for name in PATHS:
            if isinstance(options.get(name), str):
                options[name] = str(file.parent / options[name])
    base = content.pop("base", None)
    if base is None:
        return Recipe(file, content, small)
    if not isinstance(base, str):
        raise InputError(f"{file}: base: must be a recipe's file, got {base!r}")
    below = _read(file.parent / base, [*above, file.resolve()])
    return Recipe(file, {**below.options, **content}, {**below.small, **small})


def _argument(name: str, value: Any, action: argparse.Action | None, file: Path) -> list[str]:
    if value is None:
        return []
    if isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise InputError(f"{file}: {name}: must be true or false, got {value!r}")
        return [action.option_strings[0 if value else 1]]
    option = f"--{name}" if action is None else action.option_strings[0]
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float | dict) for one in values):
        raise InputError(f"{file}: {name}: must be a value, a list of values or a mapping, got {value!r}")
    # With "=", so that a value that begins with a dash is none of the options.
    texts = [json.dumps(one) if isinstance(one, dict) else str(one) for one in values]
    return [f"{option}={texts[0]}"] if len(texts) == 1 else [option, *texts]
