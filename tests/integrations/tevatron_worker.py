"""One of two processes of Tevatron's trainer: a step of SGD on a shared batch, and the loss it reports.
tests/integrations/test_tevatron.py, which starts it, compares with one process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tevatron.retriever.modeling.encoder import EncoderModel
from torch import Tensor, nn
from transformers import TrainingArguments

import wassrank
from wassrank.integrations.tevatron import GradedTrainer

from .joined import main

Q, K, d = 6, 3, 4
LOSSES: dict[str, Any] = {
    "grade": wassrank.GradeWassersteinLoss(p=2, target="linear"),
    "gaussian": wassrank.GaussianWassersteinLoss(),
}


class Encoder(EncoderModel):  # type: ignore[misc]
    """Linear, of given vectors."""

    def __init__(self, temperature: float = 0.5) -> None:
        torch.manual_seed(0)
        linear = nn.Linear(d, d, dtype=torch.float64)
        linear.config = SimpleNamespace()  # type: ignore[assignment]
        super().__init__(linear, temperature=temperature)

    def encode_query(self, qry: dict[str, Tensor]) -> Tensor:
        embeddings: Tensor = self.encoder(qry["x"])
        return embeddings

    encode_passage = encode_query


def rows() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(Q, d, generator=generator, dtype=torch.float64)
    passages = torch.randn(Q, K, d, generator=generator, dtype=torch.float64)
    return list(zip(queries, passages, torch.randint(0, 4, (Q, K), generator=generator), strict=True))


def collate(features: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    queries, passages, grades = (torch.stack(column) for column in zip(*features, strict=True))
    return {"x": queries}, {"x": passages.flatten(0, 1)}, grades


def step(name: str, folder: Path, processes: int = 1) -> tuple[float, list[Tensor]]:
    """The loss reported, and by how much a step of SGD at rate 1 moves the parameters."""
    model = Encoder()
    before = [p.detach().clone() for p in model.parameters()]
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=1,
        per_device_train_batch_size=Q // processes,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = GradedTrainer(
        graded_loss=LOSSES[name], model=model, args=arguments, train_dataset=rows(), data_collator=collate
    )
    trainer.train()
    (loss,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return loss, [p.detach() - old for p, old in zip(model.parameters(), before, strict=True)]


def work(_: int, out: Path) -> dict[str, Any]:
    return {name: step(name, out / name, 2) for name in LOSSES}


if __name__ == "__main__":
    main(work)
