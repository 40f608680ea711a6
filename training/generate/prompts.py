"""What the model is asked: the files of a folder (prompts/, or one of the user's own) filled in for one item.

levels.json          what each level of relevance means, after the TREC deep-learning tracks' scale
forms.json           from which a query's form is drawn: length, kind of text, opening, reader
system.txt conversation.txt calls.txt examples.json                  passages for a query
query_system.txt query.txt query_forms.json query_examples.json      a query for a passage

A form is drawn from the seed and the item's id and nothing else, and holds for all passages of a query: a level cannot
be told by it. In the .txt files $name stands for a value.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from training.errors import InputError
from training.generate.backends import Message

BUNDLED = Path(__file__).parent / "prompts"

FILES = (
    "levels.json",
    "forms.json",
    "system.txt",
    "conversation.txt",
    "calls.txt",
    "examples.json",
    "query_system.txt",
    "query.txt",
    "query_forms.json",
    "query_examples.json",
)
PASSAGE, QUERY = "passage", "query"
"""The key of an answer that is one passage, and of one that is one query."""


@dataclass(frozen=True)
class Item:
    """What something is written for: a query, or a passage of a corpus."""

    id: str
    text: str


@dataclass(frozen=True)
class Level:
    grade: int
    name: str
    definition: str

    @property
    def key(self) -> str:
        """Its key in an answer that has all levels."""
        return f"grade_{self.grade}"


class Prompts:
    """The prompts of a folder.

    Args:
        folder: holds FILES.
        examples: how many of the folder's examples precede each question.

    Raises:
        InputError: a file is missing or is not what it should be.
    """

    def __init__(self, folder: Path = BUNDLED, examples: int = 1) -> None:
        self._files = {name: _read(folder / name) for name in FILES}
        self._data = {name: _json(text, folder / name) for name, text in self._files.items() if name.endswith("json")}
        self.digest = hashlib.sha256("\0".join(self._files.values()).encode()).hexdigest()
        try:
            self.levels = sorted((Level(**each) for each in self._data["levels.json"]), key=lambda level: -level.grade)
            available = min(len(self._data["examples.json"]), len(self._data["query_examples.json"]))
            # Whatever is amiss in a file shows when all of it is filled in.
            self._examples = available
            item = Item("id", "text")
            self.conversation(item, 0), self.calls(item, 0), self.query(item, 0)
        except KeyError as error:
            raise InputError(f"{folder}: a prompt lacks or misnames {error}") from error
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"{folder}: a prompt cannot be filled in: {error}") from error
        grades = [level.grade for level in self.levels]
        if (
            not grades
            or len(set(grades)) < len(grades)
            or not all(type(grade) is int and grade >= 0 for grade in grades)
        ):
            raise InputError(f"{folder / 'levels.json'}: needs one entry a grade, and grades are integers >= 0")
        if not 0 <= examples <= available:
            raise InputError(f"{folder}: has {available} examples, {examples} are asked for")
        self._examples = examples

    def form(self, item: Item, seed: int) -> dict[str, Any]:
        """How the passages for a query are to look, whatever their level."""
        return _draw(self._data["forms.json"], f"{seed}/{item.id}")

    def conversation(self, query: Item, seed: int) -> list[Message]:
        """Asks for the passages of all levels in one answer."""
        messages = [self._system()]
        for example in self._drawn("examples.json", query, seed):
            answer = {level.key: example["passages"][str(level.grade)] for level in self.levels}
            messages += [self._all_levels(example["query"], example["form"]), assistant(answer)]
        return [*messages, self._all_levels(query.text, self.form(query, seed))]

    def calls(self, query: Item, seed: int) -> tuple[list[Message], list[Message]]:
        """What comes before the first question, and the questions, one a level; answers stand between them."""
        messages = [self._system()]
        for example in self._drawn("examples.json", query, seed):
            for level in self.levels:
                answer = {PASSAGE: example["passages"][str(level.grade)]}
                messages += [self._one_level(example["query"], example["form"], level), assistant(answer)]
        form = self.form(query, seed)
        return messages, [self._one_level(query.text, form, level) for level in self.levels]

    def query(self, passage: Item, seed: int) -> list[Message]:
        """Asks for a query that the passage answers."""
        messages = [{"role": "system", "content": self._files["query_system.txt"]}]
        for example in self._drawn("query_examples.json", passage, seed):
            question = self._filled("query.txt", passage=example["passage"], **example["form"])
            messages += [question, assistant({QUERY: example["query"]})]
        form = _draw(self._data["query_forms.json"], f"{seed}/{passage.id}")
        return [*messages, self._filled("query.txt", passage=passage.text, **form)]

    def _system(self) -> Message:
        levels = "\n".join(f"{level.grade} ({level.name}): {level.definition}" for level in self.levels)
        return {"role": "system", "content": Template(self._files["system.txt"]).substitute(levels=levels)}

    def _all_levels(self, query: str, form: dict[str, Any]) -> Message:
        grades = ", ".join(f"{level.grade} ({level.name})" for level in self.levels)
        keys = ", ".join(f'"{level.key}"' for level in self.levels)
        return self._filled("conversation.txt", query=query, grades=grades, keys=keys, **form)

    def _one_level(self, query: str, form: dict[str, Any], level: Level) -> Message:
        told = {"grade": level.grade, "name": level.name, "definition": level.definition}
        return self._filled("calls.txt", query=query, **told, **form)

    def _filled(self, file: str, **values: Any) -> Message:
        return {"role": "user", "content": Template(self._files[file]).substitute(values).strip()}

    def _drawn(self, name: str, item: Item, seed: int) -> list[dict[str, Any]]:
        examples: list[dict[str, Any]] = self._data[name]
        return random.Random(f"{seed}/{item.id}/examples").sample(examples, self._examples)


def assistant(answer: dict[str, str]) -> Message:
    return {"role": "assistant", "content": json.dumps(answer, ensure_ascii=False)}


def _draw(choices: dict[str, list[Any]], seed: str) -> dict[str, Any]:
    rng = random.Random(seed)
    return {name: rng.choice(values) for name, values in sorted(choices.items())}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8") from error


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error


def digest(messages: Iterable[Message]) -> str:
    """Tells prompts apart: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(list(messages), ensure_ascii=False).encode()).hexdigest()[:16]
