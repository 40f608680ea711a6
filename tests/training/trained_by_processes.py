"""What each process of a run does in test_training_processes.py, where there are several and where there is one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from training.data import read_collection
from training.encoder import BiEncoder
from training.groups import GradedGroups
from training.losses import LossOptions, build_loss
from training.trainer import fit, leave_processes, training_arguments

GLOBAL_BATCH = 4
ACCUMULATED = 2
CASES: dict[str, tuple[LossOptions, dict[str, Any]]] = {
    "grade-axis, passages gathered": (LossOptions(), {"from_embeddings": True, "gather": "passages"}),
    "grade-axis, passages gathered, accumulated": (LossOptions(), {"from_embeddings": True, "gather": "passages"}),
    "InfoNCE, passages sent round, accumulated": (LossOptions("info_nce"), {"from_embeddings": True, "gather": "ring"}),
    "KL beside it, passages sent round, in chunks": (
        LossOptions("combined_loss", kl=0.5, info_nce=0.0),
        {"from_embeddings": True, "gather": "ring", "encode_chunk_size": 3},
    ),
    "Gaussian, passages gathered": (
        LossOptions("gaussian_wasserstein", target="softmax"),
        {"from_embeddings": True, "gather": "passages"},
    ),
    "InfoNCE of scores of its own passages": (LossOptions("info_nce", in_batch=None), {"in_batch": False}),
}


def train_all(collection: Path, model: Path, output: Path) -> None:
    """Trains `model` once a case and writes its weights and its losses as `output` / case.*."""
    read = read_collection(collection, ["train"])
    for case, (options, step) in CASES.items():
        args = training_arguments(
            output / "unused",
            use_cpu=True,
            num_train_epochs=2,
            logging_steps=1,
            gradient_accumulation_steps=ACCUMULATED if case.endswith("accumulated") else 1,
            # Not Adam: it makes a step of rounding where a gradient is zero.
            optim="sgd",
            learning_rate=0.5,
        )
        args.per_device_train_batch_size = GLOBAL_BATCH // args.world_size
        encoder = BiEncoder.from_pretrained(model)
        loss = build_loss(options, read.highest_grade(), from_embeddings=step.get("from_embeddings", False))
        run = fit(encoder, GradedGroups(read, "train", 3, args.seed), loss, args, **step)
        where = output / f"{case}.{args.process_index}"
        torch.save({name: weight.detach() for name, weight in encoder.named_parameters()}, f"{where}.pt")
        Path(f"{where}.json").write_text(json.dumps(run.losses), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_all(*map(Path, sys.argv[1:]))
    leave_processes()
