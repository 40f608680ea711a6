"""The backends that need no server: answers from a file, a model in this process, and vLLM where it is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.errors import InputError
from training.generate import Limits, generate
from training.generate.__main__ import main
from training.generate.backends import Sampling
from training.generate.backends.local import Local
from training.generate.backends.recorded import Recorded, Recorder
from training.generate.parse import schema

Make = Callable[..., Any]


def test_a_recorded_run_is_repeated_without_the_model(
    make_queries: Make, scripted: Make, records: Make, tmp_path: Path
) -> None:
    queries, recording = make_queries(5), tmp_path / "recording.jsonl"
    calls = iter(range(100))

    def script(messages: Any, schema: dict[str, Any], seed: int) -> str:
        well = json.dumps(dict.fromkeys(schema["properties"], f"text {seed}"))
        return well if next(calls) % 3 else "malformed"

    generate(queries, tmp_path / "first", Recorder(scripted(script), recording), progress=False)
    generate(queries, tmp_path / "second", Recorded(recording), limits=Limits(concurrency=1), progress=False)
    for name in ("contexts.jsonl", "set_aside.jsonl"):
        runs = [sorted(map(json.dumps, records(tmp_path / run, name))) for run in ("first", "second")]
        assert runs[0] == runs[1]
    assert len(records(tmp_path / "second")) == 5


def test_an_answer_is_never_given_to_another_question(
    make_queries: Make, scripted: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries, recording = make_queries(2), tmp_path / "recording.jsonl"
    generate(queries, tmp_path / "first", Recorder(scripted(), recording), progress=False)
    arguments = ["--queries", str(queries), "--out", str(tmp_path / "second"), "--backend", "recorded"]
    assert main([*arguments, "--recording", str(recording), "--seed", "1"]) == 1
    assert f"{recording}: has no answer to 'Query: what is thing " in capsys.readouterr().err


@pytest.mark.parametrize("line", ['{"text": "no request"}', '{"request": "x", "texts": "y"}', "no json"])
def test_a_recording_that_is_none_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "recording.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"recording\.jsonl:1: "):
        Recorded(tmp_path / "recording.jsonl")


LETTERS = [*'{}":, ', *"abcdefghijklmnopqrstuvwxyz0123456789_", "[UNK]", "</s>"]
TEMPLATE = "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }}{% endfor %}"


@pytest.fixture
def chat_model(tmp_path: Path) -> Callable[..., str]:
    """Makes a folder with a causal model of one layer that knows letters, all as likely as each other."""

    def make(template: str | None = TEMPLATE, length: int = 40_000) -> str:
        config = LlamaConfig(
            vocab_size=len(LETTERS),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=length,
            bos_token_id=None,
            eos_token_id=LETTERS.index("</s>"),
        )
        tokenizer = Tokenizer(models.WordLevel({letter: n for n, letter in enumerate(LETTERS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer.decoder = decoders.Fuse()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="</s>")
        fast.chat_template = template
        folder = tmp_path / "chat_model"
        model = LlamaForCausalLM(config)
        model.lm_head.weight.data.zero_()
        model.save_pretrained(folder)
        fast.save_pretrained(folder)
        return str(folder)

    return make


SHORT = Limits(concurrency=3, answers=2, max_tokens=300)


def test_a_model_in_this_process_is_held_to_the_schema_and_its_seed(
    chat_model: Callable[..., str], make_queries: Make, records: Make, tmp_path: Path
) -> None:
    """All letters are as likely: that JSON comes is the grammar's doing. A text may become too long for the limit."""

    def said(name: str, seed: int) -> dict[str, Any]:
        backend = Local(chat_model(), sampling=Sampling(1.0, 1.0), device="cpu")
        summary = generate(
            make_queries(2), tmp_path / name, backend, limits=SHORT, seed=seed, examples=0, progress=False
        )
        finished, aside = records(tmp_path / name), records(tmp_path / name, "set_aside.jsonl")
        assert len(finished) + len(aside) == 2
        assert finished
        assert all(record["detail"].startswith("cut off") or "is empty" in record["detail"] for record in aside)
        assert summary.tokens["out"] > sum(len(passage["text"]) for each in finished for passage in each["passages"])
        return {record["query_id"]: record["passages"] for record in finished}

    first = said("first", 0)
    assert said("again", 0) == first
    assert said("other", 1) != first


def test_a_model_in_this_process_leaves_the_callers_random_numbers_alone(chat_model: Callable[..., str]) -> None:
    async def ask(backend: Local) -> None:
        await backend.start()  # loading draws numbers too; what is asked must not
        torch.manual_seed(3)
        await backend.complete([{"role": "user", "content": "a"}], schema(["query"]), seed=7, max_tokens=20)

    torch.manual_seed(3)
    expected = torch.rand(3)
    asyncio.run(ask(Local(chat_model(), device="cpu")))
    assert torch.equal(torch.rand(3), expected)


def test_a_generation_that_nobody_waits_for_ends(
    chat_model: Callable[..., str], make_queries: Make, tmp_path: Path
) -> None:
    """Without that the run could not end before a million tokens are written: the likeliest letter ends no text."""
    backend = Local(chat_model(length=2_000_000), sampling=Sampling(0.0, 1.0), device="cpu")
    limits = Limits(concurrency=1, seconds=0.2, retries=0, max_tokens=1_000_000)
    summary = generate(make_queries(2), tmp_path / "out", backend, limits=limits, examples=0, progress=False)
    assert summary.left == 2
    assert set(summary.failures) == {"no answer within 0.2 s"}


def test_a_prompt_longer_than_the_model_is_set_aside(
    chat_model: Callable[..., str], make_queries: Make, records: Make, tmp_path: Path
) -> None:
    generate(
        make_queries(1), tmp_path / "out", Local(chat_model(length=32), device="cpu"), limits=SHORT, progress=False
    )
    (aside,) = records(tmp_path / "out", "set_aside.jsonl")
    assert aside["reason"] == "rejected"
    assert aside["detail"].endswith("tokens and the model takes 32")


def test_a_model_without_a_chat_template_is_refused(
    chat_model: Callable[..., str], make_queries: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--queries", str(make_queries(1)), "--out", str(tmp_path / "out"), "--backend", "local"]
    assert main([*arguments, "--model", chat_model(template=None)]) == 1
    assert "has no chat template" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["no_such_folder", "broken"])
def test_a_model_that_cannot_be_loaded_is_named(
    name: str, make_queries: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{", encoding="utf-8")
    arguments = ["--queries", str(make_queries(1)), "--out", str(tmp_path / "out"), "--backend", "local"]
    assert main([*arguments, "--model", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot load the model '{tmp_path / name}': ")
    assert error.count("\n") == 1


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_its_backend_says_so(
    make_queries: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--queries", str(make_queries(1)), "--out", str(tmp_path / "out"), "--backend", "vllm"]
    assert main([*arguments, "--model", "some/model"]) == 1
    assert capsys.readouterr().err.startswith("error: the vllm backend needs the package vllm, 0.11 or newer: ")


class StandIn:
    """A package that looks like vLLM from here: the names and parameters are vLLM's, the answers are a test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self.ended = False
        stand_in = self

        @dataclass
        class SamplingParams:
            temperature: float
            top_p: float
            seed: int
            max_tokens: int
            structured_outputs: Any
            output_kind: str

        @dataclass
        class StructuredOutputsParams:
            json: dict[str, Any]

        @dataclass
        class AsyncEngineArgs:
            model: str
            tensor_parallel_size: int = 1

        class AsyncLLM:
            @classmethod
            def from_engine_args(cls, engine_args: AsyncEngineArgs) -> AsyncLLM:
                if engine_args.model == "unknown":
                    raise OSError("unknown is not a model\nand more of it")
                return cls()

            async def get_tokenizer(self) -> Any:
                return tokenizer

            async def generate(self, prompt: Any, sampling_params: SamplingParams, request_id: str) -> Any:
                if len(prompt["prompt_token_ids"]) > 6000:
                    raise ValueError("longer than the maximum model length")
                stand_in.asked.append({"prompt": prompt, "params": sampling_params, "id": request_id})
                keys = sampling_params.structured_outputs.json["properties"]
                text = json.dumps(dict.fromkeys(keys, f"text {sampling_params.seed}"))
                answer = SimpleNamespace(text=text, token_ids=[1, 2, 3], finish_reason="stop")
                yield SimpleNamespace(outputs=[answer], finished=True)

            def shutdown(self) -> None:
                stand_in.ended = True

        names: dict[str, dict[str, Any]] = {
            "vllm": {"SamplingParams": SamplingParams},
            "vllm.engine": {},
            "vllm.engine.arg_utils": {"AsyncEngineArgs": AsyncEngineArgs},
            "vllm.sampling_params": {
                "RequestOutputKind": SimpleNamespace(FINAL_ONLY="final"),
                "StructuredOutputsParams": StructuredOutputsParams,
            },
            "vllm.v1": {},
            "vllm.v1.engine": {},
            "vllm.v1.engine.async_llm": {"AsyncLLM": AsyncLLM},
        }
        for name, content in names.items():
            module = ModuleType(name)
            module.__dict__.update(content)
            monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, chat_model: Callable[..., str]) -> StandIn:
    return StandIn(monkeypatch, PreTrainedTokenizerFast.from_pretrained(chat_model()))


def test_vllms_engine_is_asked_as_its_interface_wants(
    stand_in: StandIn, make_queries: Make, records: Make, tmp_path: Path
) -> None:
    """Of this end only: that vLLM answers is not shown here."""
    from training.generate.backends.vllm import Vllm

    backend = Vllm("some/model", sampling=Sampling(0.5, 0.9), tensor_parallel_size=2)
    generate(make_queries(3), tmp_path / "out", backend, examples=0, limits=Limits(4, max_tokens=50), progress=False)
    params = stand_in.asked[0]["params"]
    assert (params.temperature, params.top_p, params.max_tokens, params.output_kind) == (0.5, 0.9, 50, "final")
    assert params.structured_outputs.json["required"] == ["grade_3", "grade_2", "grade_1", "grade_0"]
    assert len({asked["id"] for asked in stand_in.asked}) == 3
    tokens = sum(len(asked["prompt"]["prompt_token_ids"]) for asked in stand_in.asked)
    assert sum(record["tokens"]["in"] for record in records(tmp_path / "out")) == tokens > 300
    assert [record["tokens"]["out"] for record in records(tmp_path / "out")] == [3, 3, 3]
    assert stand_in.ended


def test_what_vllm_refuses_is_set_aside_or_ends_the_run(
    stand_in: StandIn, make_queries: Make, records: Make, tmp_path: Path
) -> None:
    from training.generate.backends.vllm import Vllm

    generate(make_queries(1), tmp_path / "out", Vllm("some/model"), examples=3, progress=False)
    (aside,) = records(tmp_path / "out", "set_aside.jsonl")
    assert (aside["reason"], aside["detail"]) == ("rejected", "longer than the maximum model length")
    with pytest.raises(InputError, match=r"cannot load the model 'unknown': unknown is not a model$"):
        generate(make_queries(1), tmp_path / "other", Vllm("unknown"), progress=False)
    assert not (tmp_path / "other").exists()
