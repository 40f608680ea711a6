"""Ways to train what does not fit: half precision, recomputed activations, low-rank changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from training import train
from training.data import read_collection
from training.encoder import BiEncoder
from training.groups import GradedGroups
from training.lora import low_rank
from training.losses import LossOptions, build_loss
from training.trainer import TrainingRun, fit, training_arguments

MakeEncoder = Callable[..., BiEncoder]
PLAIN_SGD = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def run(encoder: BiEncoder, folder: Path, step: Any = None, **given: Any) -> TrainingRun:
    """One step, unless told otherwise."""
    options = {"max_steps": 1, "per_device_train_batch_size": 4, "weight_decay": 0.0, "use_cpu": True}
    args = training_arguments(folder / "unused", **(options | PLAIN_SGD | given))
    groups = GradedGroups(read_collection(folder, ["train"]), "train", 4, args.seed)
    return fit(encoder, groups, build_loss(LossOptions(), highest_grade=3), args, **(step or {}))


def moved(make: MakeEncoder, folder: Path, step: Any = None, **given: Any) -> Tensor:
    encoder = make()
    before = torch.cat([weight.flatten() for weight in encoder.state_dict().values()])
    run(encoder, folder, step, **given)
    return torch.cat([weight.flatten() for weight in encoder.state_dict().values()]) - before


@pytest.mark.parametrize("step", [{}, {"from_embeddings": True, "encode_chunk_size": 3}])
def test_bfloat16_moves_weights_nearly_as_single_precision(
    step: dict[str, Any], tiny_encoder: MakeEncoder, collection_folder: Path
) -> None:
    single = moved(tiny_encoder, collection_folder, step)
    half = moved(tiny_encoder, collection_folder, step, bf16=True)
    assert half.dtype == torch.float32  # the weights themselves stay so
    assert 0 < (half - single).norm() < 0.1 * single.norm()


@pytest.mark.parametrize("chunk", [None, 3])
def test_recomputed_activations_give_the_same_gradient(
    chunk: int | None, tiny_encoder: MakeEncoder, collection_folder: Path
) -> None:
    alive: list[int] = []

    def watched() -> BiEncoder:
        encoder = tiny_encoder()
        activations: list[StorageWeakRef] = []

        def note(_: object, inputs: object, output: Tensor) -> None:
            activations.append(StorageWeakRef(output.untyped_storage()))
            alive.append(sum(not reference.expired() for reference in activations))

        encoder.encoder.encoder.layer[0].intermediate.register_forward_hook(note)
        return encoder

    step = {"encode_chunk_size": chunk}
    kept = moved(watched, collection_folder)
    assert max(alive) == 2  # queries' and passages'
    alive.clear()
    recomputed = moved(watched, collection_folder, step, gradient_checkpointing=True)
    assert max(alive) == 1
    assert (recomputed - kept).norm() < 1e-4 * kept.norm()


def test_low_rank_chunks_and_recomputed_activations_train_together(
    tiny_encoder: MakeEncoder, collection_folder: Path
) -> None:
    """In bfloat16 too, each is the plain low-rank step; of the weights themselves nothing moves."""

    def low_rank_moved(step: Any = None, **given: Any) -> dict[str, Tensor]:
        encoder = tiny_encoder()
        torch.manual_seed(0)
        with low_rank(encoder, rank=2, alpha=4, targets=None):
            before = {name: weight.detach().clone() for name, weight in encoder.named_parameters()}
            run(encoder, collection_folder, step, max_steps=2, **given)
            return {name: weight.detach() - before[name] for name, weight in encoder.named_parameters()}

    plain = low_rank_moved()
    together = {"encode_chunk_size": 3, "from_embeddings": True}
    for found, error in (
        (low_rank_moved(together, gradient_checkpointing=True), 1e-3),
        (low_rank_moved(together, gradient_checkpointing=True, bf16=True), 0.2),
    ):
        assert found.keys() == plain.keys()
        trained = [name for name in found if "lora_" in name]
        assert all(found[name].abs().max() == 0 for name in found if name not in trained)
        expected = torch.cat([plain[name].flatten() for name in trained])
        assert expected.norm() > 0
        assert (torch.cat([found[name].flatten() for name in trained]) - expected).norm() < error * expected.norm()


def test_low_rank_changes_are_few_and_become_weights(tiny_encoder: MakeEncoder, collection_folder: Path) -> None:
    encoder, start = tiny_encoder(), tiny_encoder().state_dict()
    with low_rank(encoder, rank=2, alpha=4, targets=["query", "value"]):
        trained = [name for name, weight in encoder.named_parameters() if weight.requires_grad]
        assert len(trained) == 4
        assert all("lora_" in name for name in trained)
        run(encoder, collection_folder, max_steps=3)
        texts = ["w1 w2", "w3"]
        inside = encoder.encode(texts)
    assert encoder.state_dict().keys() == start.keys()  # as if it had never been there
    torch.testing.assert_close(encoder.encode(texts), inside)
    changed = {name for name, weight in encoder.state_dict().items() if not torch.equal(weight, start[name])}
    assert changed == {f"encoder.encoder.layer.0.attention.self.{name}.weight" for name in ("query", "value")}
    for name in changed:
        assert torch.linalg.matrix_rank(encoder.state_dict()[name] - start[name], atol=1e-6) <= 2


def test_the_command_trains_in_low_rank(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(collection_folder), "--model", str(model_folder), "--output", str(tmp_path / "trained")]
    arguments += ["--per_device_train_batch_size", "4", "--max_steps", "2", "--learning_rate", "1e-2"]
    assert train.main([*arguments, "--lora-rank", "2", "--bf16", "--use_cpu", "--gradient_checkpointing"]) == 0
    start, trained = (BiEncoder.from_pretrained(folder) for folder in (model_folder, tmp_path / "trained"))
    assert trained.state_dict().keys() == start.state_dict().keys()
    assert not torch.equal(trained.encode(["w1 w2"]), start.encode(["w1 w2"]))
    metrics = json.loads((tmp_path / "trained" / train.METRICS_FILE).read_text(encoding="utf-8"))
    assert metrics["run"]["steps"] == []  # fewer than logging_steps


def test_low_rank_changes_begin_as_the_seed_says(collection_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    def trained(name: str, seed: str) -> Tensor:
        arguments = ["--data", str(collection_folder), "--model", str(model_folder), "--output", str(tmp_path / name)]
        arguments += ["--per_device_train_batch_size", "4", "--max_steps", "2", "--learning_rate", "1e-2"]
        assert train.main([*arguments, "--lora-rank", "2", "--seed", seed]) == 0
        return BiEncoder.from_pretrained(tmp_path / name).encode(["w1 w2"])

    assert torch.equal(trained("first", "1"), trained("again", "1"))
    assert not torch.equal(trained("first of another", "2"), trained("second", "1"))


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (["--lora-rank", "0"], "LoRA: "),
        (["--lora-rank", "2", "--lora-targets", "nothing"], "LoRA: "),
        (["--fp16", "--use_cpu"], "--fp16 needs a GPU"),
        (["--fp16", "--bf16", "--use_cpu"], "training arguments: At most one of fp16 and bf16"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    extra: list[str],
    why: str,
    collection_folder: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--data", str(collection_folder), "--model", str(model_folder), "--output", str(tmp_path / "x")]
    assert train.main([*arguments, "--per_device_train_batch_size", "4", *extra]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert why in error
