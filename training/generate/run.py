"""The engine: items through a task and a backend into a store, many at once, whatever the backend does.

Memory does not grow with the number of items: a fixed number of workers take them from the stream one by one.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from training.errors import InputError
from training.generate import parse
from training.generate.backends import Backend, BusyError, Completion, Message, RejectedError
from training.generate.prompts import Item
from training.generate.store import Store
from training.generate.tasks import Task

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the second try of a request that failed, doubled each time, at most the longest."""

UNANSWERED_IN_A_ROW = 20
"""So many items without an answer and none with one between them: the backend is gone, and it stops (or as many as
are under way at once, if those are more: one bad minute hits them all)."""

LONGEST_WAIT = 600.0
"""Seconds: who asks for a longer wait is not waited for. The item is left for another run."""

REJECTED = "rejected"


@dataclass(frozen=True)
class Limits:
    """How hard to try.

    Args:
        concurrency: requests under way at once.
        seconds: for one request, from its sending to the end of the answer.
        answers: usable answers are asked for so often, each time with another seed, before an item is set aside.
        retries: so often is a request sent again that got no answer (429, 5xx, broken or no connection, time out).
        max_tokens: of an answer.
    """

    concurrency: int = 32
    seconds: float = 300.0
    answers: int = 3
    retries: int = 6
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("seconds", 1e-3), ("answers", 1), ("retries", 0), ("max_tokens", 1)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")


class StoppedError(Exception):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _SetAsideError(Exception):
    """No usable answer for this item, whatever is tried."""

    def __init__(self, kind: str, reason: str, raw: str) -> None:
        super().__init__(reason)
        self.kind, self.raw = kind, raw


class _UnansweredError(Exception):
    """No answer at all; another time there may be one."""


class _Asking:
    """The requests about one item, counted: a task's `Ask`."""

    def __init__(self, run: Run, item: Item) -> None:
        self._run = run
        self._item = item
        self._questions = 0
        self.tokens: Counter[str] = Counter({"in": 0, "out": 0})
        self.attempts = 0

    async def __call__(self, messages: Sequence[Message], keys: Sequence[str]) -> dict[str, str]:
        self._questions += 1
        for answer in range(1, self._run.limits.answers + 1):
            completion = await self._complete(list(messages), parse.schema(keys), answer)
            self.tokens.update({"in": completion.tokens_in, "out": completion.tokens_out})
            try:
                if completion.ended == "refused":
                    raise parse.RefusalError("the endpoint or the model declined")
                if completion.ended == "length":
                    raise parse.AnswerError(f"cut off at {self._run.limits.max_tokens} tokens")
                return parse.texts(completion.text, keys)
            except parse.AnswerError as error:
                self._run.count(error.kind)
                problem = _SetAsideError(error.kind, str(error), completion.text)
        raise problem

    async def _complete(self, messages: list[Message], schema: dict[str, Any], answer: int) -> Completion:
        limits = self._run.limits
        seed = _seed(self._run.seed, self._item.id, self._questions, answer)
        for retry in range(limits.retries + 1):
            self.attempts += 1
            try:
                async with asyncio.timeout(limits.seconds):
                    return await self._run.backend.complete(messages, schema, seed, limits.max_tokens)
            except TimeoutError:
                problem, after = f"no answer within {limits.seconds:g} s", 0.0
            except BusyError as error:
                problem, after = str(error), error.after
            except RejectedError as error:
                self._run.count(str(error))
                raise _SetAsideError(REJECTED, str(error), error.raw) from error
            self._run.count(problem)
            if after > LONGEST_WAIT:
                problem = f"{problem}, and asks for a wait of {after:.0f} s"
                break
            if retry < limits.retries:
                await asyncio.sleep(pause(retry, after))
        raise _UnansweredError(problem)


def pause(retry: int, after: float) -> float:
    """Seconds before the next try: as long as was asked for, and otherwise longer each time; never all at once."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**retry)
    return after + random.uniform(0, FIRST_PAUSE) if after else random.uniform(longest / 2, longest)


class Run:
    """One run over `items`, of which `store` has not got any yet."""

    def __init__(
        self, task: Task, items: Iterator[Item], backend: Backend, store: Store, limits: Limits, seed: int, bar: tqdm
    ) -> None:
        self.backend = backend
        self.limits = limits
        self.seed = seed
        self._task = task
        self._items = items
        self._store = store
        self._bar = bar
        self._in_a_row = 0  # items without an answer since the last one with

    async def all(self) -> None:
        """Work until nothing is left that could be worked on now.

        Raises:
            InputError: the backend is gone or unusable, or the disk is full. What is finished is kept.
            StoppedError: by SIGINT or SIGTERM.
        """
        workers = [asyncio.create_task(self._work()) for _ in range(self.limits.concurrency)]
        with _signals_cancel(workers) as received:
            try:
                await asyncio.gather(*workers)
            except asyncio.CancelledError:
                if received:
                    raise StoppedError(received[0]) from None
                raise
            finally:  # one worker's complaint ends them all
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self) -> None:
        for item in self._items:
            await self._one(item)
            await asyncio.sleep(0)  # a backend that answers at once must not keep signals and timers from their turn

    async def _one(self, item: Item) -> None:
        ask = _Asking(self, item)
        named = {self._task.id_key: item.id, self._task.text_key: item.text}
        try:
            fields = await self._task.write(item, ask)
        except _UnansweredError as error:  # not kept: it is asked again when the run is taken up again
            self._show()
            self._no_answer(error)
            return
        except _SetAsideError as error:
            told = {"reason": error.kind, "detail": str(error), "raw": error.raw}
            self._store.add_aside(named | told | {"tokens": dict(ask.tokens), "attempts": ask.attempts})
            if error.kind == REJECTED:
                self._no_answer(error)
            else:
                self._in_a_row = 0
        else:
            self._store.add(named | fields | {"tokens": dict(ask.tokens), "attempts": ask.attempts})
            self._in_a_row = 0
        self._bar.update()
        self._show()

    def _no_answer(self, error: Exception) -> None:
        self._in_a_row += 1
        if self._in_a_row >= max(UNANSWERED_IN_A_ROW, self.limits.concurrency):
            raise InputError(f"the model gives no answers any more: {error}; what is finished is kept") from None

    def count(self, problem: str) -> None:
        """Note a failed request for the manifest, by its kind: what follows a colon differs each time."""
        self._store.failures[problem.partition(":")[0]] += 1

    def _show(self) -> None:
        self._bar.set_postfix(failures=self._store.failures.total(), set_aside=self._store.set_aside, refresh=False)


def _seed(seed: int, item: str, question: int, answer: int) -> int:
    """The model's seed for a request: 31 bits, as all backends take."""
    told = f"{seed}/{item}/{question}/{answer}".encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:4]) >> 1


@contextmanager
def _signals_cancel(workers: Sequence[asyncio.Task[None]]) -> Iterator[list[int]]:
    """While the block runs, SIGINT and SIGTERM cancel the workers and are noted in the list."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where there are no handlers of signals
        yield received
        return

    def cancel(number: int) -> None:
        received.append(number)
        for worker in workers:
            worker.cancel()

    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, cancel, number)
    try:
        yield received
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
