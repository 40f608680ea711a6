"""Lightning: pip install lightning; python examples/lightning_module.py"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from sample import Encoder, loader

import wassrank


class Retriever(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self, encoder: Encoder, lr: float) -> None:
        super().__init__()
        self.encoder, self.lr, self.losses = encoder, lr, list[float]()
        self.loss_fn = wassrank.GradeWassersteinLoss(temperature=0.05, target="linear")

    def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        queries, passages = self.encoder(batch["queries"], batch["passages"])
        loss: torch.Tensor = self.loss_fn(queries.float() @ passages.float().T, batch["grades"])
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.encoder.parameters(), lr=self.lr)


def train(encoder: Encoder, batches: Any, epochs: int = 2, lr: float = 5e-5) -> list[float]:
    module = Retriever(encoder.train(), lr)
    lightning.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False).fit(module, batches)
    return module.losses


if __name__ == "__main__":
    print(*(f"{loss:.4f}" for loss in train(Encoder(), loader())))
