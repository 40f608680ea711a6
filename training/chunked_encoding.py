"""Encode a batch of any size in the memory of a chunk: GradCache (Gao et al. 2021, arXiv:2101.06983) by recomputation.

    embeddings = encode_in_chunks(encoder.embed, tokens, chunk_size=32)
    loss(embeddings, …).backward()

A loss with in-batch passages wants the embeddings of the whole batch at once, so the encoder's activations for all of
them would have to be kept until it is known. Here a chunk's activations are dropped as soon as its embeddings are
there. When the loss has given those their gradient, the chunk is encoded once more, from the same random state (so that
dropout drops the same) and under the same autocast, and backpropagated before the next one. The gradients are the
unchunked batch's; the price is a second forward of the encoder.

To autograd it is one graph, so gradient accumulation, DistributedDataParallel (one all-reduce a step) and losses of
scores or of embeddings work as they do without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.errors import InputError


def encode_in_chunks(
    embed: Callable[[dict[str, Tensor]], Tensor],
    tokens: Mapping[str, Tensor],
    chunk_size: int,
) -> Tensor:
    """embed(tokens), a chunk of texts at a time, each chunk's activations kept only while it is worked on.

    Args:
        embed: tokens → embeddings [b, d], a text's embedding depending on that text alone. It is called once a chunk
            forward and once more backward.
        tokens: tensors [B, …] of a batch.
        chunk_size: texts encoded at once. A batch of no more than that is encoded as it is: encoding it twice would
            save nothing.

    Returns:
        Embeddings [B, d].

    Raises:
        InputError: a chunk size below 1.
    """
    check_chunk_size(chunk_size)
    if all(len(tensor) <= chunk_size for tensor in tokens.values()):
        return embed(dict(tokens))
    parts = {name: tensor.split(chunk_size) for name, tensor in tokens.items()}
    chunks = [dict(zip(parts, columns, strict=True)) for columns in zip(*parts.values(), strict=True)]
    # Not reentrant: parameters get their gradient once a backward, which is what DistributedDataParallel counts on.
    embeddings: list[Tensor] = [checkpoint(embed, chunk, use_reentrant=False) for chunk in chunks]
    return torch.cat(embeddings)


def check_chunk_size(chunk_size: int) -> None:
    if chunk_size < 1:
        raise InputError(f"the encoder's chunk size must be at least 1 text, got {chunk_size}")
