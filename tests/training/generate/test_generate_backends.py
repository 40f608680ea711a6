"""The backends that need no server: answers from a file, a model in this process, and vLLM where it is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.errors import InputError
from training.generate import Limits, generate
from training.generate.__main__ import main
from training.generate.backends import Sampling
from training.generate.backends.local import Local
from training.generate.backends.recorded import Recorded, Recorder

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


WORDS = ["{", "}", '"', ":", ",", "[UNK]", "</s>", *(f"w{number}" for number in range(40))]
TEMPLATE = "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }}{% endfor %}"


@pytest.fixture
def chat_model(tmp_path: Path) -> Callable[..., str]:
    """Makes a folder with an untrained causal model of one layer."""

    def make(template: str | None = TEMPLATE, length: int = 4096) -> str:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=length,
            bos_token_id=None,
            eos_token_id=WORDS.index("</s>"),
        )
        tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="</s>")
        fast.chat_template = template
        folder = tmp_path / "chat_model"
        LlamaForCausalLM(config).save_pretrained(folder)
        fast.save_pretrained(folder)
        return str(folder)

    return make


SHORT = Limits(concurrency=3, answers=2, max_tokens=8)


def test_a_model_in_this_process_is_asked_and_what_it_says_is_kept(
    chat_model: Callable[..., str], make_queries: Make, records: Make, tmp_path: Path
) -> None:
    """Untrained, it writes no JSON: what is told of here is that it was asked, and that its words are there."""

    def said(name: str, seed: int) -> dict[str, str]:
        backend = Local(chat_model(), sampling=Sampling(1.0, 1.0), device="cpu")
        summary = generate(make_queries(4), tmp_path / name, backend, limits=SHORT, seed=seed, progress=False)
        assert summary.set_aside == 4
        assert 0 < summary.tokens["out"] <= 4 * 2 * 8
        return {record["query_id"]: record["raw"] for record in records(tmp_path / name, "set_aside.jsonl")}

    first = said("first", 0)
    assert all(set(text.split()) <= set(WORDS) for text in first.values())
    assert said("again", 0) == first
    assert said("other", 1) != first


def test_a_model_in_this_process_leaves_the_callers_random_numbers_alone(chat_model: Callable[..., str]) -> None:
    async def ask(backend: Local) -> None:
        await backend.start()  # loading draws numbers too; what is asked must not
        torch.manual_seed(3)
        await backend.complete([{"role": "user", "content": "w1"}], {}, seed=7, max_tokens=4)

    torch.manual_seed(3)
    expected = torch.rand(3)
    asyncio.run(ask(Local(chat_model(), device="cpu")))
    assert torch.equal(torch.rand(3), expected)


def test_a_generation_that_nobody_waits_for_ends(
    chat_model: Callable[..., str], make_queries: Make, tmp_path: Path
) -> None:
    """Without that the run could not end before a million tokens are written."""
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
