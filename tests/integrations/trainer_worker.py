"""sentence-transformers' own trainers, bi-encoder, late interaction and cross-encoder, alone or as one of two processes
that share a batch: the losses they report and where the weights go. test_two_trainers.py compares the two."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentence_transformers as hf
import torch
from datasets import Dataset
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from torch import Tensor

from training.encoder import default_encoder
from wassrank.integrations import cross_encoder as ce
from wassrank.integrations import multi_vector as mv
from wassrank.integrations import sentence_transformers as st

from .joined import main

STEPS = 3
WORDS = "bees see make honey from light and trains run late in the rain while cats sleep"
LENGTHS = (4, 2, 3, 4)  # of a cross-encoder's lists

CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "rows": ("bi", st.WassersteinLoss, {"gather_across_devices": True, "target": "linear"}),
    "sums of rows": ("bi", st.ListwiseKLLoss, {"gather_across_devices": True, "reduction": "sum", "scale": 1}),
    "batch": ("bi", st.GaussianWassersteinLoss, {"gather_across_devices": True}),
    "own passages": ("bi", st.WassersteinLoss, {"in_batch": None}),
    "cached": ("bi", st.CachedWassersteinLoss, {"gather_across_devices": True, "mini_batch_size": 2}),
    "cached ring": ("bi", st.CachedGaussianWassersteinLoss, {"gather_across_devices": "ring", "mini_batch_size": 3}),
    "MaxSim": ("multi", mv.WassersteinLoss, {"gather_across_devices": True}),
    "lists": ("cross", ce.WassersteinLoss, {"temperature": 0.05, "mini_batch_size": 3}),
}
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "bi": (hf.SentenceTransformer, hf.SentenceTransformerTrainer, hf.SentenceTransformerTrainingArguments),
    "multi": (hf.MultiVectorEncoder, hf.MultiVectorEncoderTrainer, hf.MultiVectorEncoderTrainingArguments),
    "cross": (CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments),
}


def model(kind: str) -> Any:
    """MiniLM's first layer in float64, without dropout, which would be drawn otherwise in each process."""
    torch.manual_seed(0)
    config: dict[str, Any] = {"num_hidden_layers": 1, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    made = KINDS[kind][0](str(default_encoder()), device="cpu", config_kwargs=config).double()
    for name, parameter in made.named_parameters():
        parameter.requires_grad_("embeddings." not in name)
    return made


def dataset(kind: str) -> Any:
    draw = random.Random(0)
    queries = [" ".join(draw.choices(WORDS.split(), k=draw.randint(2, 6))) for _ in LENGTHS]
    lists = [[" ".join(draw.choices(WORDS.split(), k=draw.randint(2, 9))) for _ in range(4)] for _ in LENGTHS]
    grades = [[draw.randint(0, 3) for _ in range(4)] for _ in LENGTHS]
    if kind != "cross":
        return Dataset.from_dict(
            {"query": queries, **{f"passage_{k}": [own[k] for own in lists] for k in range(4)}, "label": grades}
        )
    documents = [own[:n] for own, n in zip(lists, LENGTHS, strict=True)]
    return Dataset.from_dict(
        {"query": queries, "documents": documents, "label": [own[:n] for own, n in zip(grades, LENGTHS, strict=True)]}
    )


def train(name: str, folder: Path, processes: int = 1) -> tuple[list[float], list[Tensor]]:
    """The losses of a few steps of SGD, each of all rows, and by how much they move the parameters."""
    kind, make, options = CASES[name]
    encoder = model(kind)
    before = [p.detach().clone() for p in encoder.parameters() if p.requires_grad]
    arguments = KINDS[kind][2](
        output_dir=str(folder),
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=len(LENGTHS) // processes,
        optim="sgd",
        learning_rate=0.01,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = KINDS[kind][1](model=encoder, args=arguments, train_dataset=dataset(kind), loss=make(encoder, **options))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, list(moved(encoder, before))


def moved(encoder: Any, before: list[Tensor]) -> Iterator[Tensor]:
    trained = (p for p in encoder.parameters() if p.requires_grad)
    for parameter, old in zip(trained, before, strict=True):
        yield parameter.detach() - old


def work(_: int, out: Path) -> dict[str, Any]:
    return {name: train(name, out / name, 2) for name in CASES}


if __name__ == "__main__":
    main(work)
