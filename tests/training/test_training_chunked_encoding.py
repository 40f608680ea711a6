"""Chunked encoding: the unchunked batch's gradients, dropout included, in the memory of one chunk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from training.chunked_encoding import encode_in_chunks
from training.data import read_collection
from training.encoder import BiEncoder
from training.errors import InputError
from training.groups import GradedGroups, GroupCollator
from training.losses import LossOptions, build_loss
from training.trainer import fit, training_arguments

MakeEncoder = Callable[..., BiEncoder]
Batch = dict[str, Tensor]
Encode = Callable[[BiEncoder, Batch], Tensor]

CHUNK = 3  # of 5 queries and of 20 passages: neither comes out even


def whole(encoder: BiEncoder, tokens: Batch) -> Tensor:
    return encoder.embed(tokens)


def chunked(encoder: BiEncoder, tokens: Batch) -> Tensor:
    return encode_in_chunks(encoder.embed, tokens, CHUNK)


def chunks_kept(encoder: BiEncoder, tokens: Batch) -> Tensor:
    """The same chunks in the same order, so the same dropout, with all their activations kept."""
    starts = range(0, len(tokens["input_ids"]), CHUNK)
    return torch.cat([encoder.embed({k: v[i : i + CHUNK] for k, v in tokens.items()}) for i in starts])


def batch(encoder: BiEncoder, folder: Path) -> dict[str, Any]:
    groups = GradedGroups(read_collection(folder, ["train"]), "train", 4, seed=1)
    return GroupCollator(encoder.tokenizer, encoder.max_length)([groups[i] for i in range(5)])


def gradients(encoder: BiEncoder, data: dict[str, Any], encode: Encode, form: str, seed: int = 7) -> Tensor:
    encoder.train()
    encoder.zero_grad()
    torch.manual_seed(seed)
    queries, passages = encode(encoder, data["queries"]), encode(encoder, data["passages"])
    loss = build_loss(LossOptions("combined_loss", backend="torch"), highest_grade=3)
    if form == "scores":
        value = loss(queries @ passages.T, data["grades"], mask=data["mask"])
    else:
        value = loss.from_embeddings(queries, passages, data["grades"], mask=data["mask"])
    value.backward()
    return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])


@pytest.mark.parametrize("form", ["scores", "embeddings"])
def test_gradients_are_the_whole_batchs(form: str, tiny_encoder: MakeEncoder, collection_folder: Path) -> None:
    encoder = tiny_encoder().double()
    data = batch(encoder, collection_folder)
    expected = gradients(encoder, data, whole, form)
    assert expected.norm() > 1e-3
    torch.testing.assert_close(gradients(encoder, data, chunked, form), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("form", ["scores", "embeddings"])
def test_dropout_drops_the_same_both_times(form: str, tiny_encoder: MakeEncoder, collection_folder: Path) -> None:
    encoder = tiny_encoder(dropout=0.3).double()
    data = batch(encoder, collection_folder)
    expected = gradients(encoder, data, chunks_kept, form)
    after = torch.get_rng_state()
    torch.testing.assert_close(gradients(encoder, data, chunked, form), expected, rtol=1e-9, atol=1e-13)
    assert torch.equal(torch.get_rng_state(), after)  # what is drawn next is what would have been
    other = gradients(encoder, data, chunked, form, seed=8)
    assert (other - expected).norm() > 0.1 * expected.norm()


def test_autocast_is_the_same_both_times(tiny_encoder: MakeEncoder, collection_folder: Path) -> None:
    encoder = tiny_encoder(dropout=0.3)
    data = batch(encoder, collection_folder)
    exact = gradients(encoder, data, chunks_kept, "scores")

    def under_autocast(encode: Encode) -> Encode:
        def run(encoder: BiEncoder, tokens: Batch) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return encode(encoder, tokens).float()

        return run

    expected = gradients(encoder, data, under_autocast(chunks_kept), "scores")
    assert not torch.equal(expected, exact)
    # To bfloat16's own rounding: the order in which chunks' gradients are summed is another.
    error = (gradients(encoder, data, under_autocast(chunked), "scores") - expected).norm()
    assert error < 0.01 * expected.norm()
    assert error < 0.2 * (exact - expected).norm()


def test_one_chunk_has_activations_at_a_time(tiny_encoder: MakeEncoder, collection_folder: Path) -> None:
    encoder = tiny_encoder(dropout=0.1)
    data = batch(encoder, collection_folder)
    activations: list[StorageWeakRef] = []
    alive: list[int] = []

    def note(_: object, inputs: object, output: Tensor) -> None:
        activations.append(StorageWeakRef(output.untyped_storage()))
        alive.append(sum(not reference.expired() for reference in activations))

    encoder.encoder.encoder.layer[0].intermediate.register_forward_hook(note)
    gradients(encoder, data, chunks_kept, "scores")
    assert max(alive) == 2 + 7  # chunks of the queries and of the passages
    activations.clear()
    alive.clear()
    gradients(encoder, data, chunked, "scores")
    assert len(alive) == 2 * (2 + 7)
    assert max(alive) == 1


@pytest.mark.parametrize("precision", [{}, {"bf16": True}])
def test_the_trainer_encodes_in_chunks_under_accumulation(
    precision: dict[str, bool], tiny_encoder: MakeEncoder, collection_folder: Path, tmp_path: Path
) -> None:
    collection = read_collection(collection_folder, ["train"])
    loss = build_loss(LossOptions(), highest_grade=3)
    plain = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    args = training_arguments(
        tmp_path / "unused",
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        use_cpu=True,
        **plain,
        **precision,
    )

    def moved(encode_chunk_size: int | None) -> Tensor:
        encoder = tiny_encoder()
        before = [parameter.detach().clone() for parameter in encoder.parameters()]
        groups = GradedGroups(collection, "train", 4, args.seed)
        fit(encoder, groups, loss, args, encode_chunk_size=encode_chunk_size)
        after = encoder.parameters()
        return torch.cat([(a.detach() - b).flatten() for a, b in zip(after, before, strict=True)])

    expected = moved(None)
    assert expected.norm() > 1e-3
    error = (moved(CHUNK) - expected).norm() / expected.norm()
    assert error < (0.02 if precision else 1e-5)


def test_nothing_is_kept_without_a_gradient(tiny_encoder: MakeEncoder, collection_folder: Path) -> None:
    encoder = tiny_encoder().eval()
    tokens = batch(encoder, collection_folder)["passages"]
    with torch.no_grad():
        embeddings = chunked(encoder, tokens)
        torch.testing.assert_close(embeddings, encoder.embed(tokens))
    assert not embeddings.requires_grad


def test_a_chunk_of_nothing_is_refused(tiny_encoder: MakeEncoder, collection_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1 text, got 0"):
        encode_in_chunks(lambda tokens: tokens["x"], {"x": torch.zeros(2, 1)}, 0)
    groups = GradedGroups(read_collection(collection_folder, ["train"]), "train", 4, seed=1)
    args = training_arguments(tmp_path, per_device_train_batch_size=4)
    with pytest.raises(InputError, match="at least 1 text, got -1"):
        fit(tiny_encoder(), groups, build_loss(LossOptions(), highest_grade=3), args, encode_chunk_size=-1)
