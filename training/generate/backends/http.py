"""Any endpoint that speaks OpenAI's chat completions: vLLM's server, llama.cpp's, a hosted service."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from training.errors import InputError, first_line
from training.generate.backends.base import BusyError, Completion, Message, RejectedError, Sampling
from training.generate.parse import schema

STRUCTURED = ("json_schema", "json_object", "none")
"""How the endpoint is told the schema: as OpenAI and vLLM do, as llama-cpp-python does, or not at all."""

CHECK_SECONDS = 30.0
CHECK_TOKENS = 16
CHECK_PAUSE = 0.5  # seconds
SHORTEST_SECRET = 12
"""Characters. Servers without keys are given EMPTY, none or x by custom: no secrets, and words of a passage."""
LARGEST_ANSWER = 8 << 20  # bytes; a server gone wild must not fill the memory
LONGEST_QUOTE = 300  # characters of what an endpoint says, in a message
_TRY_LATER = {408, 409, 425, 429}


class Http:
    """Args:
    base_url: as OpenAI's clients take it, usually ending in /v1.
    model: one of those the endpoint lists.
    api_key_env: the environment's variable that holds the key; must be set if `key_required`, otherwise only if
        the endpoint asks for a key. The key goes into the requests' header and nowhere else.
    structured: one of STRUCTURED.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        key_required: bool = False,
        sampling: Sampling = Sampling(),  # noqa: B008  # frozen
        structured: str = "json_schema",
        concurrency: int = 32,
    ) -> None:
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InputError("the base URL must look like http://host:port/v1")
        if address.username or address.password or address.query or address.fragment:
            raise InputError(f"the base URL must hold no key or query: put the key into the variable {api_key_env}")
        if structured not in STRUCTURED:
            raise InputError(f"structured must be one of {STRUCTURED}, got {structured!r}")
        self.concurrency = concurrency
        self._url = base_url.rstrip("/")
        self._model = model
        self._sampling = sampling
        self._structured = structured
        self._key_name = api_key_env
        self._key = _key(api_key_env, key_required)
        self._session: aiohttp.ClientSession | None = None

    def describe(self) -> dict[str, Any]:
        sampling = {"temperature": self._sampling.temperature, "top_p": self._sampling.top_p}
        return {"kind": "http", "model": self._model, "structured": self._structured, **sampling}

    async def start(self) -> None:
        """Connect, see that the endpoint takes the key and knows the model, and put one small question to it."""
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            connector=aiohttp.TCPConnector(limit=0),  # the run bounds them
            timeout=aiohttp.ClientTimeout(total=None),  # the run has a limit for the request as a whole
            cookie_jar=aiohttp.DummyCookieJar(),  # a million answers' cookies are nobody's
        )
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                answer = await self._request("GET", "models")
        except (BusyError, TimeoutError) as error:
            raise InputError(f"{self._url}: cannot be reached: {error or 'no answer'}") from None
        self._refuse_key(answer)
        if answer.status == 200:
            self._refuse_unknown(answer)
        elif answer.status not in (404, 405):  # which list no models; the question will show
            raise InputError(f"{self._url}/models: HTTP {answer.status}: {quote(answer.text)}")
        await self._try_out()

    async def _try_out(self) -> None:
        question: list[Message] = [{"role": "user", "content": "Answer with an empty text."}]
        for last in (False, False, True):
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self.complete(question, schema(["text"]), seed=0, max_tokens=CHECK_TOKENS)
                return
            except (BusyError, RejectedError) as error:
                # Some servers have an error of their own over what they do not know: 500, again and again.
                if isinstance(error, RejectedError) or (last and str(error) == "HTTP 500"):
                    said = f"{error}: {quote(error.raw)}"
                    raise InputError(f"{self._url}: refuses the kind of request we make: {said}") from None
                if str(error) != "HTTP 500":
                    return  # it may be under load; a run has patience
            except TimeoutError:
                return
            await asyncio.sleep(CHECK_PAUSE)

    def _refuse_unknown(self, answer: _Answer) -> None:
        try:
            known = [self._clean(str(model["id"])) for model in json.loads(answer.text)["data"]]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self._url}/models: no list of models: {quote(answer.text)}") from None
        if self._model not in known:
            listed = ", ".join(sorted(known)[:10]) or "none"
            raise InputError(f"{self._url}: does not know the model {self._model!r}; it has {listed}")

    async def complete(self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int) -> Completion:
        body = {
            "model": self._model,
            "messages": messages,
            "seed": seed,
            "max_tokens": max_tokens,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            **self._response_format(schema),
        }
        answer = await self._request("POST", "chat/completions", body)
        if answer.status == 200:
            completion = _completion(answer.text)
            return replace(completion, text=self._clean(completion.text))  # JSON may have hidden it by an escape
        self._refuse_key(answer)
        if answer.status in _TRY_LATER or answer.status >= 500:
            raise BusyError(f"HTTP {answer.status}", retry_after(answer.retry_after), answer.text)
        if answer.status == 404:
            raise InputError(f"{self._url}: HTTP 404 for the model {self._model!r}: {quote(answer.text)}")
        raise RejectedError(f"HTTP {answer.status}", answer.text)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> _Answer:
        """Raises BusyError if there is no whole answer, whatever its status."""
        assert self._session is not None, "start comes first"
        try:
            # A redirect might lead the key elsewhere.
            async with self._session.request(
                method, f"{self._url}/{path}", json=body, allow_redirects=False
            ) as response:
                said = bytearray()
                async for chunk in response.content.iter_any():
                    said += chunk
                    if len(said) > LARGEST_ANSWER:
                        raise BusyError(f"an answer of more than {LARGEST_ANSWER} bytes")
                text = self._clean(said.decode("utf-8", errors="replace"))
                return _Answer(response.status, text, response.headers.get("Retry-After"))
        except aiohttp.ClientError as error:
            raise BusyError(f"{type(error).__name__}: {self._clean(first_line(error))}") from None

    def _response_format(self, schema: dict[str, Any]) -> dict[str, Any]:
        if self._structured == "json_schema":
            named = {"name": "answer", "strict": True, "schema": schema}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        if self._structured == "json_object":
            return {"response_format": {"type": "json_object", "schema": schema}}
        return {}

    def _refuse_key(self, answer: _Answer) -> None:
        if answer.status not in (401, 403):
            return
        if not self._key:
            raise InputError(f"{self._url}: demands a key: put it into the environment variable {self._key_name}")
        raise InputError(f"{self._url}: refuses the key in {self._key_name} (HTTP {answer.status})")

    def _clean(self, text: str) -> str:
        """What the endpoint said may hold the key it was sent; what is kept or shown may not."""
        return text.replace(self._key, "[key]") if len(self._key) >= SHORTEST_SECRET else text


@dataclass(frozen=True)
class _Answer:
    status: int
    text: str  # without the key
    retry_after: str | None


def _completion(body: str) -> Completion:
    """What a chat completion says."""
    try:
        answer = json.loads(body)
        choice = answer["choices"][0]
        text, refusal = choice["message"].get("content"), choice["message"].get("refusal")
        ended = choice.get("finish_reason")
        usage = answer.get("usage") or {}
        tokens_in, tokens_out = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise BusyError("an answer that is no chat completion") from None
    if not isinstance(text, str | None):
        raise BusyError("an answer that is no chat completion")
    if refusal or ended == "content_filter":
        return Completion(str(refusal or text or ""), tokens_in, tokens_out, "refused")
    return Completion(text or "", tokens_in, tokens_out, "length" if ended == "length" else "stop")


def quote(text: str) -> str:
    """What an endpoint said, for a message of one line."""
    return " ".join(text.split())[:LONGEST_QUOTE] or "(nothing)"


def retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header asks for, given as seconds or as a date; 0 for none or nonsense."""
    if value is None:
        return 0.0
    try:
        return max(0.0, float(value)) if value.strip().isdigit() else _until(value)
    except ValueError:
        return 0.0


def _until(date: str) -> float:
    return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())


def _key(variable: str, required: bool) -> str:
    key = os.environ.get(variable, "").strip()
    if required and not key:
        raise InputError(f"the environment variable {variable} is not set; it should hold the key")
    # A header would be refused by the client with a message that shows it.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(f"the environment variable {variable} holds something that is no key")
    return key
