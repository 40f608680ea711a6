"""vLLM's engine in this process, where the package vllm is installed (0.11 or newer, for its structured outputs).

One machine without a server to look after: requests are batched as they come, tensor and pipeline parallelism are
vLLM's. Beyond one machine take `http` with vLLM's server.
"""

from __future__ import annotations

import inspect
from itertools import count
from typing import Any

from training.errors import InputError, first_line
from training.generate.backends.base import Completion, Message, RejectedError, Sampling


class Vllm:
    """Args:
    model: hub name or folder.
    engine: further arguments of vLLM's AsyncEngineArgs, `tensor_parallel_size` say.
    """

    concurrency = 256  # vLLM queues what does not fit; with fewer its batches run dry

    def __init__(self, model: str, *, sampling: Sampling = Sampling(), **engine: Any) -> None:  # noqa: B008  # frozen
        try:
            from vllm import SamplingParams
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise InputError(f"the vllm backend needs the package vllm, 0.11 or newer: {first_line(error)}") from error
        self._engine_class, self._arguments = AsyncLLM, AsyncEngineArgs(model=model, **engine)
        self._params, self._structured, self._kind = SamplingParams, StructuredOutputsParams, RequestOutputKind
        self._model = model
        self._sampling = sampling
        self._number = count()

    def describe(self) -> dict[str, Any]:
        sampling = {"temperature": self._sampling.temperature, "top_p": self._sampling.top_p}
        return {"kind": "vllm", "model": self._model, **sampling}

    async def start(self) -> None:
        """In the running loop: the engine ties itself to it."""
        try:
            self._engine = self._engine_class.from_engine_args(self._arguments)
        except (OSError, ValueError) as error:  # as vLLM and transformers put an unknown or unusable model
            raise InputError(f"cannot load the model {self._model!r}: {first_line(error)}") from error
        tokenizer = self._engine.get_tokenizer()  # a coroutine in some versions
        self._tokenizer = await tokenizer if inspect.isawaitable(tokenizer) else tokenizer

    async def complete(self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int) -> Completion:
        params = self._params(
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            seed=seed,
            max_tokens=max_tokens,
            structured_outputs=self._structured(json=schema),
            output_kind=self._kind.FINAL_ONLY,
        )
        prompt = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        tokens = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]  # the template has them
        last = None
        try:
            async for output in self._engine.generate({"prompt_token_ids": tokens}, params, f"q{next(self._number)}"):
                last = output
        except ValueError as error:  # a prompt that is too long for the model
            raise RejectedError(first_line(error)) from error
        assert last is not None, "vLLM ended a request without output"
        answer = last.outputs[0]
        ended = "length" if answer.finish_reason == "length" else "stop"
        return Completion(answer.text, len(tokens), len(answer.token_ids), ended=ended)  # type: ignore[arg-type]

    async def close(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.shutdown()
