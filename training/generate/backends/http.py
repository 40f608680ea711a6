"""Any endpoint that speaks OpenAI's chat completions: vLLM's server, llama.cpp's, a hosted service."""

from __future__ import annotations

import asyncio
import os
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from training.errors import InputError, first_line
from training.generate.backends.base import BusyError, Completion, Message, RejectedError, Sampling
from training.generate.parse import schema

STRUCTURED = ("json_schema", "json_object", "none")
"""How the endpoint is told the schema: as OpenAI and vLLM do, as llama-cpp-python does, or not at all."""

CHECK_SECONDS = 30.0
CHECK_TOKENS = 16
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
        self._client: httpx2.AsyncClient | None = None

    def describe(self) -> dict[str, Any]:
        sampling = {"temperature": self._sampling.temperature, "top_p": self._sampling.top_p}
        return {"kind": "http", "model": self._model, "structured": self._structured, **sampling}

    async def start(self) -> None:
        """Connect, see that the endpoint takes the key and knows the model, and put one small question to it."""
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),  # the run bounds them
            timeout=None,  # the run has a limit for the request as a whole
        )
        try:
            response = await self._client.get(f"{self._url}/models", timeout=CHECK_SECONDS)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise InputError(f"{self._url}: cannot be reached: {self._clean(first_line(error))}") from None
        self._refuse_key(response)
        if response.status_code == 200:
            self._refuse_unknown(response)
        elif response.status_code not in (404, 405):  # which list no models; the question will show
            raise InputError(f"{self._url}/models: HTTP {response.status_code}: {self._quote(response)}")
        question: list[Message] = [{"role": "user", "content": "Answer with an empty text."}]
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self.complete(question, schema(["text"]), seed=0, max_tokens=CHECK_TOKENS)
        except RejectedError as error:
            said = " ".join(error.raw.split())[:LONGEST_QUOTE]
            raise InputError(f"{self._url}: refuses the kind of request we make: {error}: {said}") from None
        except (BusyError, TimeoutError):  # it may be under load; a run has patience
            pass

    def _refuse_unknown(self, response: httpx2.Response) -> None:
        try:
            known = [str(model["id"]) for model in response.json()["data"]]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self._url}/models: no list of models: {self._quote(response)}") from None
        if self._model not in known:
            listed = self._clean(", ".join(sorted(known)[:10])) or "none"
            raise InputError(f"{self._url}: does not know the model {self._model!r}; it has {listed}")

    async def complete(self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int) -> Completion:
        assert self._client is not None, "start comes first"
        body = {
            "model": self._model,
            "messages": messages,
            "seed": seed,
            "max_tokens": max_tokens,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            **self._response_format(schema),
        }
        try:
            response = await self._client.post(f"{self._url}/chat/completions", json=body)
        except httpx2.HTTPError as error:
            raise BusyError(f"{type(error).__name__}: {self._clean(first_line(error))}") from None
        if response.status_code == 200:
            return self._completion(response)
        self._refuse_key(response)
        if response.status_code in _TRY_LATER or response.status_code >= 500:
            raise BusyError(f"HTTP {response.status_code}", retry_after(response.headers.get("retry-after")))
        if response.status_code == 404:
            raise InputError(f"{self._url}: HTTP 404 for the model {self._model!r}: {self._quote(response)}")
        raise RejectedError(f"HTTP {response.status_code}", self._clean(response.text))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def _response_format(self, schema: dict[str, Any]) -> dict[str, Any]:
        if self._structured == "json_schema":
            named = {"name": "answer", "strict": True, "schema": schema}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        if self._structured == "json_object":
            return {"response_format": {"type": "json_object", "schema": schema}}
        return {}

    def _completion(self, response: httpx2.Response) -> Completion:
        try:
            answer = response.json()
            choice = answer["choices"][0]
            text, refusal = choice["message"].get("content"), choice["message"].get("refusal")
            ended = choice.get("finish_reason")
            usage = answer.get("usage") or {}
            tokens_in, tokens_out = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise BusyError("an answer that is no chat completion") from None
        if refusal or ended == "content_filter":
            return Completion(self._clean(str(refusal or text or "")), tokens_in, tokens_out, "refused")
        if not isinstance(text, str | None):
            raise BusyError("an answer that is no chat completion")
        return Completion(self._clean(text or ""), tokens_in, tokens_out, "length" if ended == "length" else "stop")

    def _refuse_key(self, response: httpx2.Response) -> None:
        if response.status_code not in (401, 403):
            return
        if not self._key:
            raise InputError(f"{self._url}: demands a key: put it into the environment variable {self._key_name}")
        raise InputError(f"{self._url}: refuses the key in {self._key_name} (HTTP {response.status_code})")

    def _quote(self, response: httpx2.Response) -> str:
        return " ".join(self._clean(response.text).split())[:LONGEST_QUOTE] or "(nothing)"

    def _clean(self, text: str) -> str:
        """What the endpoint said may hold the key it was sent; what is kept or shown may not."""
        return text.replace(self._key, "[key]") if self._key else text


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
