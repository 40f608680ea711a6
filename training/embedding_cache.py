"""Embeddings of many texts, a chunk at a time; kept, if told, under a key of everything they depend on.

The key is a hash of the encoder (weights, configuration, tokenizer, pooling, normalisation, length) and of the texts in
their order: another checkpoint or another corpus is another key, so nothing kept can be stale. An entry is a folder in
the cache (`index.cache_folder`) with embeddings.npy, float32, memory-mapped when read and never unpickled; it appears
whole or not at all.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from training.encoder import BiEncoder
from training.errors import InputError, first_line
from training.folders import staged
from training.index import locked

CHUNK = 1 << 15  # texts: enough that sorting them by length saves the padding, and 50 MB of embeddings
FORMAT = 1  # to be raised with every change of what an entry means
FILE = "embeddings.npy"


def embeddings(
    encoder: BiEncoder,
    texts: Collection[str],
    batch_size: int = 32,
    progress: str | None = None,
    cache: Path | None = None,
) -> Tensor:
    """Embeddings [len(texts), d] of texts, float32 on the CPU; from `cache`, a folder, if they lie there.

    `progress` names a progress bar; None shows none.

    Raises:
        InputError: no texts, the cache cannot be written, the disk is full, an entry is damaged.
    """
    if not texts:
        raise InputError("there are no texts to embed")
    if cache is None:
        return torch.cat(list(_chunks(encoder, texts, batch_size, progress)))
    folder = cache / f"embeddings-{_key(encoder, texts)}"
    with locked(folder):
        if not (folder / FILE).is_file():
            with staged(folder, FILE) as staging:
                _write(staging / FILE, len(texts), _chunks(encoder, texts, batch_size, progress))
    try:
        # Copy on write: torch wants an array that may be written.
        array: Any = np.load(folder / FILE, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:  # what NumPy raises for a file that is too short, or no array
        raise InputError(f"{folder}: damaged, delete it and it is made again: {first_line(error)}") from error
    return torch.from_numpy(array)


def encoder_key(encoder: BiEncoder) -> str:
    """A hash of everything in an encoder that its embeddings depend on; not of the folder it came from."""
    key = blake2b(digest_size=16)
    config = encoder.encoder.config.to_dict()
    config.pop("_name_or_path", None)
    adapters = getattr(encoder.encoder, "peft_config", {})  # LoRA's scale is in no weight
    settings = {
        "format": FORMAT,
        "transformers": transformers.__version__,
        "class": type(encoder.encoder).__name__,
        "code": _code(encoder.encoder),
        "config": config,
        "adapters": {name: adapter.to_dict() for name, adapter in adapters.items()},
        "tokenizer": _tokenizer(encoder.tokenizer),
        "padding_side": encoder.tokenizer.padding_side,
        "pooling": encoder.pooling,
        "normalize": encoder.normalize,
        "max_length": encoder.max_length,
    }
    _add(key, json.dumps(settings, sort_keys=True, default=_plain).encode())
    for name, weight in sorted(encoder.encoder.state_dict().items()):
        _add(key, f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        _add(key, weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return key.hexdigest()


def _key(encoder: BiEncoder, texts: Iterable[str]) -> str:
    key = blake2b(encoder_key(encoder).encode(), digest_size=16)
    for text in texts:
        _add(key, text.encode("utf-8", "surrogatepass"))
    return key.hexdigest()


def _add(key: blake2b, content: bytes | memoryview) -> None:
    """With its length: "ab", "c" are not "a", "bc"."""
    key.update(len(content).to_bytes(8, "big"))
    key.update(content)


def _code(model: nn.Module) -> list[str]:
    """What its parts are written in: code that comes with a model may change where its weights do not."""
    classes = {type(part) for part in model.modules()}
    files = {inspect.getfile(one) for one in classes if not one.__module__.startswith("torch.")}
    return sorted(blake2b(Path(file).read_bytes(), digest_size=16).hexdigest() for file in files)


def _tokenizer(tokenizer: Any) -> Any:
    if not tokenizer.is_fast:
        return [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map]
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    # What the last call left behind; every call of ours says both.
    return {part: value for part, value in content.items() if part not in ("padding", "truncation")}


def _plain(value: Any) -> Any:
    """Sets, enumerations and types, as configurations hold them."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _chunks(encoder: BiEncoder, texts: Collection[str], batch_size: int, progress: str | None) -> Iterator[Tensor]:
    remaining = iter(texts)
    with tqdm(total=len(texts), desc=progress, unit=" texts", leave=False, disable=progress is None) as bar:
        while chunk := list(islice(remaining, CHUNK)):
            yield encoder.encode(chunk, batch_size)
            bar.update(len(chunk))


def _write(file: Path, rows: int, chunks: Iterator[Tensor]) -> None:
    # By write and not through a map: on a full disk that is an error, and not the end of the process.
    with file.open("wb") as out:
        for number, chunk in enumerate(chunks):
            if number == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": (rows, chunk.shape[1])}
                np.lib.format.write_array_header_1_0(out, header)
            out.write(chunk.contiguous().numpy().astype("<f4", copy=False).data)
