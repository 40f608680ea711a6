"""Kept embeddings: used again for the same weights and texts, for no others, and never half-written."""

from __future__ import annotations

import errno
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from training import embedding_cache
from training.embedding_cache import FILE, embeddings, encoder_key
from training.encoder import BiEncoder
from training.errors import InputError

TEXTS = ["w1 w2", "w3", "w4 w5 w6", "w7", "w1 w2 w3 w4"]


@pytest.fixture
def counted(tiny_encoder: Callable[..., BiEncoder], monkeypatch: pytest.MonkeyPatch) -> tuple[BiEncoder, list[int]]:
    """An encoder, and how many texts each of its calls was given."""
    encoder, calls = tiny_encoder(), list[int]()
    encode = encoder.encode

    def counting(texts: list[str], batch_size: int = 32) -> torch.Tensor:
        calls.append(len(texts))
        return encode(texts, batch_size)

    monkeypatch.setattr(encoder, "encode", counting)
    monkeypatch.setattr(embedding_cache, "CHUNK", 2)
    return encoder, calls


def test_what_was_kept_is_not_embedded_again(counted: tuple[BiEncoder, list[int]], tmp_path: Path) -> None:
    encoder, calls = counted
    first = embeddings(encoder, TEXTS, cache=tmp_path)
    assert calls == [2, 2, 1]
    again = embeddings(encoder, TEXTS, cache=tmp_path)
    assert calls == [2, 2, 1]
    assert again.equal(first)
    torch.testing.assert_close(first, encoder.encode(TEXTS), rtol=1e-4, atol=1e-6)
    assert embeddings(encoder, TEXTS).equal(first)  # without a cache: the same chunks


def test_a_weight_a_setting_or_a_text_that_changes_is_another_entry(
    counted: tuple[BiEncoder, list[int]], tmp_path: Path
) -> None:
    encoder, calls = counted

    def kept() -> bool:
        before = len(calls)
        embeddings(encoder, TEXTS, cache=tmp_path)
        return len(calls) == before

    assert not kept()
    assert kept()
    with torch.no_grad():
        encoder.encoder.embeddings.word_embeddings.weight[5, 3] += 1e-6
    assert not kept()
    encoder.max_length = 3
    assert not kept()
    encoder.pooling = "cls"
    assert not kept()
    encoder.normalize = False
    assert not kept()
    encoder.encoder.config.layer_norm_eps = 1e-3
    assert not kept()
    encoder.tokenizer.add_tokens(["w7 w8"])
    assert not kept()
    assert kept()
    before = len(calls)
    for texts in (TEXTS[::-1], TEXTS[:-1], [*TEXTS[:-2], "w7w1", " w2 w3 w4"]):
        embeddings(encoder, texts, cache=tmp_path)
        assert len(calls) > before
        before = len(calls)


def test_code_that_changes_is_another_entry(tiny_encoder: Callable[..., BiEncoder], tmp_path: Path) -> None:
    """As code that comes with a model does, under the same name and with the same weights."""
    keys = []
    for name, change in (("one", "output"), ("two", "-output"), ("again", "output")):
        (tmp_path / f"{name}.py").write_text(
            "from torch import nn\n"
            "class Activation(nn.Module):\n"
            "    def forward(self, output):\n"
            f"        return {change}\n",
            encoding="utf-8",
        )
        specification = importlib.util.spec_from_file_location("activation", tmp_path / f"{name}.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules["activation"] = module
        specification.loader.exec_module(module)
        encoder = tiny_encoder()
        encoder.encoder.encoder.layer[0].intermediate.intermediate_act_fn = module.Activation()
        keys.append(encoder_key(encoder))
    del sys.modules["activation"]
    assert keys[0] == keys[2] != keys[1]


def test_an_encoder_has_the_same_key_wherever_it_lies(tiny_encoder: Callable[..., BiEncoder], tmp_path: Path) -> None:
    keys = set()
    for name in ("a", "b"):
        tiny_encoder().save_pretrained(tmp_path / name)
        loaded = BiEncoder.from_pretrained(tmp_path / name)
        keys.add(encoder_key(loaded))
        loaded.encode(TEXTS)  # leaves its padding in the tokenizer
        keys.add(encoder_key(loaded))
    assert len(keys) == 1


def test_a_half_written_entry_is_never_used(
    counted: tuple[BiEncoder, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, calls = counted
    encode = encoder.encode

    def fails(texts: list[str], batch_size: int = 32) -> torch.Tensor:
        if calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        return encode(texts, batch_size)

    monkeypatch.setattr(encoder, "encode", fails)
    with pytest.raises(InputError, match="No space left on device"):
        embeddings(encoder, TEXTS, cache=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_damaged_entry_is_refused_and_nothing_is_unpickled(
    counted: tuple[BiEncoder, list[int]], tmp_path: Path
) -> None:
    encoder, _ = counted
    embeddings(encoder, TEXTS, cache=tmp_path)
    (entry,) = tmp_path.glob(f"*/{FILE}")
    entry.write_bytes(entry.read_bytes()[:-8])
    with pytest.raises(InputError, match="damaged, delete it"):
        embeddings(encoder, TEXTS, cache=tmp_path)
    np.save(entry, np.array([{"an": "object"}]), allow_pickle=True)
    with pytest.raises(InputError, match="damaged, delete it"):
        embeddings(encoder, TEXTS, cache=tmp_path)


def test_no_texts_are_refused(tiny_encoder: Callable[..., BiEncoder]) -> None:
    with pytest.raises(InputError, match="no texts"):
        embeddings(tiny_encoder(), [])
