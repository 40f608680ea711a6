"""Queries, a model that answers as a test tells it, and a generator without long pauses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.generate import run
from training.generate.backends import Completion, Message, http


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before another try: a hundredth of a second, not one and more."""
    monkeypatch.setattr(run, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(run, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(http, "CHECK_PAUSE", 0.01)


@pytest.fixture
def make_queries(tmp_path: Path) -> Callable[[int], Path]:
    """Writes a queries.jsonl of so many queries."""

    def make(count: int) -> Path:
        path = tmp_path / "queries.jsonl"
        lines = [json.dumps({"_id": f"q{number}", "text": f"what is thing {number}"}) for number in range(count)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return make


def well(schema: dict[str, Any], seed: int) -> str:
    return json.dumps({key: f"a text of {seed} for {key}" for key in schema["properties"]})


class Scripted:
    """A backend in the process: `script` gets messages, schema and seed and gives the answer's text, or raises."""

    concurrency = 4

    def __init__(self, script: Callable[[list[Message], dict[str, Any], int], str | Completion]) -> None:
        self.asked: list[list[Message]] = []
        self._script = script

    def describe(self) -> dict[str, Any]:
        return {"kind": "scripted"}

    async def start(self) -> None: ...

    async def complete(self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int) -> Completion:
        self.asked.append([dict(message) for message in messages])
        answer = self._script(messages, schema, seed)
        return answer if isinstance(answer, Completion) else Completion(answer, 20, 10)

    async def close(self) -> None: ...


@pytest.fixture
def scripted() -> Callable[..., Scripted]:
    """Makes a backend of a script; without one it answers well."""

    def make(script: Callable[..., str | Completion] = lambda _, schema, seed: well(schema, seed)) -> Scripted:
        return Scripted(script)

    return make


@pytest.fixture
def records() -> Callable[..., list[dict[str, Any]]]:
    """Reads a .jsonl file, every line of which must be whole."""

    def read(folder: Path, name: str = "contexts.jsonl") -> list[dict[str, Any]]:
        text = (folder / name).read_text(encoding="utf-8")
        assert not text or text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]

    return read


@pytest.fixture
def manifest() -> Callable[[Path], dict[str, Any]]:
    def read(folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return found

    return read
