"""accelerate, one batch shared by all processes: accelerate launch examples/accelerate_loop.py"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from sample import Encoder, loader

import wassrank


def train(encoder: Encoder, batches: Any, epochs: int = 2, lr: float = 5e-5) -> list[float]:
    accelerator = Accelerator()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=lr)
    encoder, optimizer, batches = accelerator.prepare(encoder, optimizer, batches)
    loss_fn = wassrank.GradeWassersteinLoss(temperature=0.05, target="linear")
    losses = []
    for _ in range(epochs):
        for batch in batches:
            queries, passages = encoder(batch["queries"], batch["passages"])
            # Each query against the passages of all processes; scores are never stored.
            loss = loss_fn.from_embeddings(queries, passages, batch["grades"], gather=True)
            optimizer.zero_grad()
            # The whole batch's loss on every process: gradients are to be summed, and DDP takes their mean.
            accelerator.backward(loss * accelerator.num_processes)
            optimizer.step()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(*(f"{loss:.4f}" for loss in train(Encoder(), loader())))
