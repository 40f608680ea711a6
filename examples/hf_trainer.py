"""Hugging Face's Trainer: python examples/hf_trainer.py"""

from __future__ import annotations

import tempfile
from typing import Any

from sample import Encoder, collate, sample
from transformers import Trainer, TrainingArguments

import wassrank


class GradedTrainer(Trainer):  # type: ignore[misc]
    loss_fn = wassrank.GradeWassersteinLoss(temperature=0.05, target="linear")

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        grades = inputs.pop("grades")  # not called labels: Trainer would take those for counts of tokens
        queries, passages = model(**inputs)
        loss = self.loss_fn(queries.float() @ passages.float().T, grades)
        return (loss, {}) if return_outputs else loss


def train(encoder: Encoder, groups: Any, epochs: int = 2, batch_size: int = 8, lr: float = 5e-5) -> list[float]:
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=lr,
        remove_unused_columns=False,  # the collator takes tuples, not columns
        logging_steps=1,
        report_to="none",
    )
    trainer = GradedTrainer(encoder, arguments, collate, groups)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    train(Encoder(), sample())
