"""What a backend is: a language model that answers a conversation with text, and how it says that it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


@dataclass(frozen=True)
class Sampling:
    """How a model draws its words; the same for every request of a run."""

    temperature: float = 0.8
    top_p: float = 0.95


@dataclass(frozen=True)
class Completion:
    text: str
    tokens_in: int = 0  # 0 where the backend does not count
    tokens_out: int = 0
    ended: Literal["stop", "length", "refused"] = "stop"  # "length": cut off at max_tokens


class BusyError(Exception):
    """No answer this time: a later try may have one.

    `after`: the seconds the other side asked us to wait. `raw`: what it said.
    """

    def __init__(self, reason: str, after: float = 0.0, raw: str = "") -> None:
        super().__init__(reason)
        self.after = after
        self.raw = raw


class RejectedError(Exception):
    """This very request will never be answered, though others may be. `raw`: what the other side said."""

    def __init__(self, reason: str, raw: str = "") -> None:
        super().__init__(reason)
        self.raw = raw


class Backend(Protocol):
    """A language model.

    `start` is called once before anything else and raises InputError if the model cannot be used; `close`
    always ends it. `complete` raises BusyError or RejectedError about one request, InputError about all to come.
    """

    concurrency: int
    """Requests it takes at once, unless the user says otherwise."""

    def describe(self) -> dict[str, Any]:
        """For the manifest: what decides the answers. Nothing secret, and no address."""

    async def start(self) -> None: ...

    async def complete(
        self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int
    ) -> Completion: ...

    async def close(self) -> None: ...
