"""An endpoint that speaks OpenAI's chat completions on loopback, without a model: it answers as it is told, after as
long as it is told, and misbehaves if it is told to.

    python -m benchmarks.endpoint --latency 0.5        # prints its base URL, serves until it is ended

Well-behaved, it writes a text for each key of the schema it is sent; the same question gets the same answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

MODEL = "mock"


@dataclass(frozen=True)
class Reply:
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None  # so many bytes of headers and body are sent, then the connection is closed
    delay: float = 0.0  # seconds before the first byte


Behaviour = Callable[[int, dict[str, Any]], Reply]
"""From a request's number (from 0, completions only) and its body to the reply."""


def answer(body: dict[str, Any], delay: float = 0.0) -> Reply:
    """As a model would that keeps to the schema."""
    shape = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    asked = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:12]
    texts = {key: f"A text for {key}, number {asked}." for key in shape.get("properties", {"text": {}})}
    return says(json.dumps(texts), delay=delay)


def says(text: str, ended: str = "stop", delay: float = 0.0, **message: Any) -> Reply:
    """A chat completion with this text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": ended}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return Reply(json.dumps({"choices": [choice], "usage": usage}).encode(), delay=delay)


class Endpoint:
    """Args:
    behaviour: what it does with a request for a completion.
    key: the key it demands, if any.
    """

    def __init__(self, behaviour: Behaviour, key: str | None = None) -> None:
        self.requests: list[dict[str, Any]] = []  # bodies of the requests for completions, if they are to be kept
        self.most_at_once = 0
        self.connections = 0
        self.keep = True
        self._behaviour = behaviour
        self._key = key
        self._count = 0
        self._at_once = 0

    async def serve(self, started: Callable[[str], None]) -> None:
        """Serve until cancelled; `started` is told the base URL."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=4096)
        port = server.sockets[0].getsockname()[1]
        started(f"http://127.0.0.1:{port}/v1")
        async with server:
            await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                reply = await self._reply(head.split(" ", 2)[1], fields, body)
                length = {"content-length": str(len(reply.body)), "content-type": "application/json"} | reply.headers
                lines = [f"HTTP/1.1 {reply.status} -", *(f"{name}: {value}" for name, value in length.items())]
                whole = "\r\n".join([*lines, "", ""]).encode() + reply.body
                writer.write(whole[: reply.sent])
                await writer.drain()
                if reply.sent is not None:
                    break
        writer.close()

    async def _reply(self, path: str, fields: dict[str, str], body: bytes) -> Reply:
        if self._key is not None and fields.get("authorization") != f"bearer {self._key}".lower():
            said = {"error": f"not a key we know: {fields.get('authorization')}"}
            return Reply(json.dumps(said).encode(), status=401)
        if path.endswith("/models"):
            return Reply(json.dumps({"data": [{"id": MODEL}]}).encode())
        asked = json.loads(body)
        number, self._count = self._count, self._count + 1
        if self.keep:
            self.requests.append(asked)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = self._behaviour(number, asked)
            await asyncio.sleep(reply.delay)
        finally:
            self._at_once -= 1
        return reply


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[str]:
    """The endpoint in a thread of its own; gives its base URL."""
    ready = threading.Event()
    urls: list[str] = []
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    def started(url: str) -> None:
        urls.append(url)
        ready.set()

    async def serve() -> None:
        task = asyncio.ensure_future(endpoint.serve(started))
        running.append((asyncio.get_running_loop(), task))
        with contextlib.suppress(asyncio.CancelledError):
            await task

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10), "the endpoint does not start"
    try:
        yield urls[0]
    finally:
        loop, task = running[0]
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endpoint", description=__doc__)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds an answer takes")
    latency = parser.parse_args().latency
    endpoint = Endpoint(lambda _, body: answer(body, latency))
    endpoint.keep = False
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(endpoint.serve(lambda url: print(url, flush=True)))


if __name__ == "__main__":
    main()
