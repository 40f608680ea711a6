"""A causal language model of transformers in this process: a hub name, a model folder, or a GGUF file.

One request at a time, held to the schema by a grammar. For trying things out, and for machines where no server can run;
at scale use `http` with vLLM's server.
"""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList
from xgrammar import GrammarCompiler, TokenizerInfo
from xgrammar.contrib.hf import LogitsProcessor

from training.errors import InputError, first_line
from training.generate.backends.base import Completion, Message, RejectedError, Sampling


class Local:
    """Args:
    model: hub name, model folder (safetensors), or a file that ends in .gguf (its weights are unpacked; needs the
        package gguf). No code that comes with a model is run.
    device: where it runs; by default on the GPU if there is one.
    """

    concurrency = 1

    def __init__(self, model: str, *, sampling: Sampling = Sampling(), device: str | None = None) -> None:  # noqa: B008
        self._source = model
        self._sampling = sampling
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._one_at_a_time = threading.Lock()

    def describe(self) -> dict[str, Any]:
        sampling = {"temperature": self._sampling.temperature, "top_p": self._sampling.top_p}
        return {"kind": "local", "model": self._source, **sampling}

    async def start(self) -> None:
        await asyncio.to_thread(self._load)

    def _load(self) -> None:
        place: dict[str, Any] = {"trust_remote_code": False}
        source = self._source
        if source.endswith(".gguf"):
            path = Path(source)
            if not path.is_file():
                raise InputError(f"{path}: there is no such file")
            place["gguf_file"] = path.name
            source = str(path.parent)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source, **place)
            weights: dict[str, Any] = {} if "gguf_file" in place else {"use_safetensors": True}
            model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", **place, **weights)
        except (OSError, ValueError, ImportError) as error:  # what transformers raises for an unusable model
            raise InputError(f"cannot load the model {self._source!r}: {first_line(error)}") from error
        ends = model.generation_config.eos_token_id or self._tokenizer.eos_token_id
        if not self._tokenizer.chat_template or ends is None:
            raise InputError(f"the model {self._source!r} has no chat template or no end token; take an instruct model")
        self._model = model.to(self._device).eval()
        self._ends: list[int] = ends if isinstance(ends, list) else [ends]
        words = model.config.get_text_config().vocab_size
        vocabulary = TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=words, stop_token_ids=self._ends)
        self._grammars = GrammarCompiler(vocabulary)  # which keeps what it has compiled

    async def complete(self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int) -> Completion:
        stop = _Stop()
        try:
            return await asyncio.to_thread(self._generate, messages, schema, seed, max_tokens, stop)
        finally:  # also when it is cancelled, which does not end a thread
            stop.now.set()

    def _generate(
        self, messages: list[Message], schema: dict[str, Any], seed: int, max_tokens: int, stop: _Stop
    ) -> Completion:
        with self._one_at_a_time, torch.inference_mode(), torch.random.fork_rng():
            if stop.now.is_set():
                return Completion("")
            torch.manual_seed(seed)
            tokens = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(self._device)
            asked = tokens["input_ids"].shape[1]
            longest = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
            if longest is not None and asked >= longest:
                raise RejectedError(f"the prompt has {asked} tokens and the model takes {longest}")
            drawn = self._sampling.temperature > 0
            grammar = self._grammars.compile_json_schema(json.dumps(schema), any_whitespace=False)
            written = self._model.generate(
                **tokens,
                do_sample=drawn,
                temperature=self._sampling.temperature if drawn else None,
                top_p=self._sampling.top_p if drawn else None,
                top_k=None,  # a model's own setting, 50 as a rule, would come on top of ours
                max_new_tokens=max_tokens,
                logits_processor=[LogitsProcessor(grammar)],
                stopping_criteria=StoppingCriteriaList([stop]),
                pad_token_id=self._tokenizer.pad_token_id or self._ends[0],
            )[0, asked:]
        text = self._tokenizer.decode(written, skip_special_tokens=True)
        cut = len(written) == max_tokens and int(written[-1]) not in self._ends
        return Completion(text, asked, len(written), ended="length" if cut else "stop")

    async def close(self) -> None:
        pass


class _Stop(StoppingCriteria):  # type: ignore[misc]  # mypy does not follow transformers
    """Ends a generation that nobody waits for any more."""

    def __init__(self) -> None:
        self.now = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.now.is_set(), device=input_ids.device)
