"""Embeddings: pooling, normalisation, indifference to padding, and the way to a folder and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from training.encoder import SETTINGS_FILE, BiEncoder, default_encoder
from training.errors import InputError

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10", "w1"]


def hidden_states(encoder: BiEncoder, text: str) -> torch.Tensor:
    with torch.no_grad():
        tokens = encoder.tokenizer(text, return_tensors="pt")
        states: torch.Tensor = encoder.encoder.eval()(**tokens).last_hidden_state[0]
    return states


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_an_embedding_is_pooled_from_its_own_tokens(
    tiny_encoder: Callable[..., BiEncoder], pooling: str, normalize: bool
) -> None:
    encoder = tiny_encoder(pooling=pooling, normalize=normalize)
    embeddings = encoder.encode(TEXTS, batch_size=4)  # of unequal lengths, so with padding
    for text, embedding in zip(TEXTS, embeddings, strict=True):
        hidden = hidden_states(encoder, text)
        expected = hidden[0] if pooling == "cls" else hidden.mean(dim=0)
        if normalize:
            expected = expected / expected.norm()
        torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_first_token_is_a_real_one_on_whichever_side_is_padded(
    tiny_encoder: Callable[..., BiEncoder], side: str
) -> None:
    encoder = tiny_encoder(pooling="cls", normalize=False).eval()
    encoder.tokenizer.padding_side = side
    tokens = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = encoder.encoder(**tokens).last_hidden_state
        embedded = encoder.embed(dict(tokens))
    for row, token_ids in enumerate(tokens["input_ids"].tolist()):
        torch.testing.assert_close(embedded[row], hidden[row, token_ids.index(2)])  # [CLS]


def test_encoding_keeps_the_order_and_the_mode(tiny_encoder: Callable[..., BiEncoder]) -> None:
    encoder = tiny_encoder(dropout=0.5).train()
    one_by_one = torch.cat([encoder.encode([text]) for text in TEXTS])
    torch.testing.assert_close(encoder.encode(TEXTS, batch_size=2), one_by_one, rtol=1e-4, atol=1e-6)
    assert encoder.training


def test_texts_are_cut_to_max_length(tiny_encoder: Callable[..., BiEncoder]) -> None:
    encoder = tiny_encoder(max_length=4)  # [CLS], two words, [SEP]
    torch.testing.assert_close(encoder.encode(["w1 w2 w3 w4 w5"]), encoder.encode(["w1 w2"]))


def test_a_saved_encoder_comes_back_as_it_was(tiny_encoder: Callable[..., BiEncoder], tmp_path: Path) -> None:
    encoder = tiny_encoder(pooling="cls", normalize=False, max_length=7)
    encoder.save_pretrained(tmp_path)
    restored = BiEncoder.from_pretrained(tmp_path)
    assert (restored.pooling, restored.normalize, restored.max_length) == ("cls", False, 7)
    torch.testing.assert_close(restored.encode(TEXTS), encoder.encode(TEXTS), rtol=0, atol=0)


def test_weights_that_are_stored_in_half_are_trained_in_whole(
    tiny_encoder: Callable[..., BiEncoder], tmp_path: Path
) -> None:
    encoder = tiny_encoder()
    encoder.encoder.bfloat16()
    encoder.save_pretrained(tmp_path)
    assert {weight.dtype for weight in BiEncoder.from_pretrained(tmp_path).parameters()} == {torch.float32}


def test_more_tokens_than_the_encoder_has_positions_are_refused(model_folder: Path) -> None:
    assert BiEncoder.from_pretrained(model_folder, max_length=32).max_length == 32
    with pytest.raises(InputError, match="max_length 33 is more than the encoder's 32 positions"):
        BiEncoder.from_pretrained(model_folder, max_length=33)


def test_a_saved_encoder_loads_with_auto_model(tiny_encoder: Callable[..., BiEncoder], tmp_path: Path) -> None:
    encoder = tiny_encoder()
    encoder.save_pretrained(tmp_path)
    tokens = AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tmp_path).eval()(**tokens).last_hidden_state[0]
    torch.testing.assert_close(hidden, hidden_states(encoder, TEXTS[0]))


def test_weights_are_saved_as_safetensors_only(tiny_encoder: Callable[..., BiEncoder], tmp_path: Path) -> None:
    tiny_encoder().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert not [path for path in tmp_path.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]


def test_what_is_given_wins_over_what_was_saved(tiny_encoder: Callable[..., BiEncoder], tmp_path: Path) -> None:
    tiny_encoder(pooling="cls").save_pretrained(tmp_path)
    assert BiEncoder.from_pretrained(tmp_path, pooling="mean", max_length=9).pooling == "mean"
    assert BiEncoder.from_pretrained(tmp_path, pooling="mean", max_length=9).max_length == 9


def test_a_folder_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="cannot load the encoder") as caught:
            BiEncoder.from_pretrained(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"num_hidden_layers": 2}, {"model_type": "distilbert"}])
def test_weights_of_another_architecture_are_refused(
    model_folder: Path, change: dict[str, object], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """transformers alone would go on with random weights; its table of them is not printed."""
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    (model_folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(InputError, match="another architecture") as caught:
        BiEncoder.from_pretrained(model_folder)
    assert "\n" not in str(caught.value)
    assert "MISMATCH" not in (told := capfd.readouterr().err + caplog.text)
    assert "MISSING" not in told


def test_an_encoder_without_a_pooler_is_loaded(tiny_encoder: Callable[..., BiEncoder], tmp_path: Path) -> None:
    encoder = tiny_encoder()
    encoder.encoder.pooler = None
    encoder.save_pretrained(tmp_path)
    torch.testing.assert_close(BiEncoder.from_pretrained(tmp_path).encode(TEXTS), encoder.encode(TEXTS))


def test_broken_settings_are_refused(model_folder: Path) -> None:
    for text in ("{", json.dumps({"pooling": "mean"}), "[]"):
        (model_folder / SETTINGS_FILE).write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=SETTINGS_FILE):
            BiEncoder.from_pretrained(model_folder)


def test_an_unknown_pooling_is_refused(tiny_encoder: Callable[..., BiEncoder]) -> None:
    with pytest.raises(InputError, match="pooling"):
        tiny_encoder(pooling="max")


def test_the_default_encoder_embeds_without_a_network() -> None:
    embeddings = BiEncoder.from_pretrained(default_encoder()).encode(
        ["How do bees make honey?", "Bees turn nectar into honey.", "The stock market fell today."]
    )
    assert embeddings.shape == (3, 384)
    close, far = embeddings[0] @ embeddings[1], embeddings[0] @ embeddings[2]
    assert close > far + 0.3
