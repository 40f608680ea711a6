"""What is made of an item: the passages for a query, in one answer or one call a level, or a query for a passage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from training.generate.backends import Message
from training.generate.collection import added_whole, write_collection, write_queries
from training.generate.prompts import PASSAGE, QUERY, Item, Prompts, assistant, digest
from training.generate.reading import CONTEXTS_FILE, contexts_as_they_are


class Ask(Protocol):
    """Puts one question to the model until it is answered usably: the texts by key."""

    async def __call__(self, messages: Sequence[Message], keys: Sequence[str]) -> dict[str, str]: ...


class Task(Protocol):
    name: str
    records: str
    """The file of finished items."""
    id_key: str
    """The key of the item's id in a record."""
    text_key: str

    async def write(self, item: Item, ask: Ask) -> dict[str, Any]:
        """The record's own fields; `prompt` tells prompts apart, whatever the model answered."""

    def finish(self, folder: Path) -> dict[str, int]:
        """Make from the records in `folder` what they are for; what to count of it in the manifest."""


class Contexts:
    """Passages at several levels for a query."""

    records, id_key, text_key = CONTEXTS_FILE, "query_id", "query"

    def __init__(self, prompts: Prompts, seed: int, mode: str = "conversation") -> None:
        self.name = f"contexts, {mode}"
        self._prompts = prompts
        self._seed = seed
        self._in_one_answer = mode == "conversation"

    async def write(self, item: Item, ask: Ask) -> dict[str, Any]:
        levels = self._prompts.levels
        if self._in_one_answer:
            messages = self._prompts.conversation(item, self._seed)
            answer = await ask(messages, [level.key for level in levels])
            written = list(answer.values())
            asked = messages
        else:
            messages, questions = self._prompts.calls(item, self._seed)
            asked = messages + questions
            written = []
            said = list(messages)
            for question in questions:
                said.append(question)
                written.append((await ask(said, [PASSAGE]))[PASSAGE])
                said.append(assistant({PASSAGE: written[-1]}))
        passages = [{"grade": level.grade, "text": text} for level, text in zip(levels, written, strict=True)]
        return {"passages": passages, "prompt": digest(asked)}

    def finish(self, folder: Path) -> dict[str, int]:
        with added_whole(folder) as partial:
            # The store has looked for queries that come twice.
            write_collection((context for _, context in contexts_as_they_are(folder)), partial)
        return {}


class Queries:
    """A query for a passage."""

    name, records, id_key, text_key = "queries", "written.jsonl", "passage_id", "passage"

    def __init__(self, prompts: Prompts, seed: int) -> None:
        self._prompts = prompts
        self._seed = seed

    async def write(self, item: Item, ask: Ask) -> dict[str, Any]:
        messages = self._prompts.query(item, self._seed)
        answer = await ask(messages, [QUERY])
        # A query is one line: it has its place in many a file of tab-separated values.
        return {"query": " ".join(answer[QUERY].split()), "prompt": digest(messages)}

    def finish(self, folder: Path) -> dict[str, int]:
        with added_whole(folder) as partial:
            return write_queries(folder / self.records, partial)
