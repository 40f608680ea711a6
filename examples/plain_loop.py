"""A loop of your own: python examples/plain_loop.py"""

from __future__ import annotations

from typing import Any

import torch
from sample import Encoder, loader

import wassrank


def train(encoder: Encoder, batches: Any, epochs: int = 2, lr: float = 5e-5) -> list[float]:
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=lr)
    loss_fn = wassrank.GradeWassersteinLoss(temperature=0.05, target="linear")
    losses = []
    for _ in range(epochs):
        for batch in batches:
            queries, passages = encoder(batch["queries"], batch["passages"])  # [Q, d] and, query by query, [Q·K, d]
            scores = queries @ passages.T  # [Q, Q·K]
            loss = loss_fn(scores, batch["grades"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(*(f"{loss:.4f}" for loss in train(Encoder(), loader())))
