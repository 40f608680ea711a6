"""Answers from a file: a run that was recorded once is repeated without a model, to the letter.

A recording has one line a request, {"request": hash, "text": …, "tokens_in": …, "tokens_out": …, "ended": …}. The hash
is of messages, schema, seed and max_tokens, so that an answer is never given to another question.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from training.errors import InputError
from training.generate.backends.base import Backend, Completion, Message
from training.lines import json_objects


class Recorded:
    """Answers as `path` has them."""

    concurrency = 32

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: dict[str, Completion] = {}
        for where, record in json_objects(path):
            try:
                request = record.pop("request")
                self._answers[request] = Completion(**record)
            except (KeyError, TypeError) as error:
                raise InputError(f"{where}: is no recorded answer") from error

    def describe(self) -> dict[str, Any]:
        return {"kind": "recorded", "answers": request_hash(sorted(self._answers))}

    async def start(self) -> None:
        pass

    async def complete(self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int) -> Completion:
        try:
            return self._answers[request_hash([messages, schema, seed, max_tokens])]
        except KeyError:
            asked = messages[-1]["content"].partition("\n")[0]
            raise InputError(
                f"{self._path}: has no answer to {asked!r}; prompts or options differ from those recorded"
            ) from None

    async def close(self) -> None:
        pass


class Recorder:
    """Another backend, whose answers are appended to `path` as they come."""

    def __init__(self, backend: Backend, path: Path) -> None:
        self._backend = backend
        self._path = path
        self._file: TextIO | None = None
        self.concurrency = backend.concurrency

    def describe(self) -> dict[str, Any]:
        return self._backend.describe()

    async def start(self) -> None:
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written: {error.strerror}") from error
        await self._backend.start()

    async def complete(self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int) -> Completion:
        completion = await self._backend.complete(messages, schema, seed, max_tokens)
        record = {"request": request_hash([messages, schema, seed, max_tokens]), **asdict(completion)}
        assert self._file is not None, "start comes first"
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        return completion

    async def close(self) -> None:
        await self._backend.close()
        if self._file is not None:
            self._file.close()


def request_hash(request: Any) -> str:
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()
