"""The part of a training step that is not the encoder's forward and backward: `python -m benchmarks.training overhead`.

The bundled sample at the paper's batch (16 queries a device, accumulated four times, four passages each, 256 tokens),
with MiniLM, trained by `training.trainer` as `training.train` does. The encoder's part is taken in the steps
themselves: its forward, and its backward from the gradients' arrival at the embeddings to the end. The rest is reading
and tokenizing the batch, scores and loss, the optimizer, and what Hugging Face's loop does. The first step warms up and
does not count. On a GPU every mark waits for the device, which a training step does not.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import register_multi_grad_hook
from transformers import TrainerCallback

from training.data import read_collection
from training.encoder import BiEncoder, default_encoder
from training.groups import GradedGroups
from training.losses import LossOptions, build_loss
from training.trainer import GradedTrainer, training_arguments

SAMPLE = Path(__file__).parent.parent / "training" / "sample"
WARM_UP = 1
BATCH, ACCUMULATED, GROUP, LENGTH = 16, 4, 4, 256
LOSSES = {
    "info_nce": (LossOptions("info_nce"), False),
    "listwise_kl": (LossOptions("listwise_kl"), False),
    "grade_wasserstein": (LossOptions("grade_wasserstein"), False),
    "gaussian_wasserstein": (LossOptions("gaussian_wasserstein", target="softmax"), False),
    "combined_loss from embeddings": (LossOptions("combined_loss", kl=0.1, info_nce=0.0), True),
}
"""name → options, and whether the loss starts from embeddings"""


class Spans(TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
    """Seconds of each step, and of its parts by name."""

    def __init__(self) -> None:
        self.parts: list[dict[str, float]] = [{}]
        self.ends: list[float] = []
        self._optimizer = 0.0

    def add(self, name: str, since: float) -> None:
        self.parts[-1][name] = self.parts[-1].get(name, 0.0) + now() - since

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = now()
            result = call(*args, **kwargs)
            self.add(name, began)
            return result

        return timed

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._optimizer = now()

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.add("optimizer", self._optimizer)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(now())
        self.parts.append({})

    def mean(self) -> dict[str, float]:
        """Of the steps that count: seconds in all, and of each part."""
        counted = self.parts[WARM_UP : len(self.ends)]
        names = {name for step in counted for name in step}
        means = {name: sum(step.get(name, 0.0) for step in counted) / len(counted) for name in sorted(names)}
        return {"step": (self.ends[-1] - self.ends[WARM_UP - 1]) / len(counted)} | means


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(name: str, steps: int) -> dict[str, Any]:
    """Milliseconds of a step and its parts, and the share `overhead`, for one of LOSSES."""
    options, from_embeddings = LOSSES[name]
    collection = read_collection(SAMPLE, ["train"])
    encoder = BiEncoder.from_pretrained(default_encoder(), max_length=LENGTH)
    loss = build_loss(options, collection.highest_grade(), from_embeddings=from_embeddings)
    spans = Spans()
    with tempfile.TemporaryDirectory() as folder:
        args = training_arguments(
            Path(folder),
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=ACCUMULATED,
            max_steps=WARM_UP + steps,
        )
        groups = GradedGroups(collection, "train", GROUP, args.seed)
        trainer = GradedTrainer(encoder, loss, args, groups, [spans], from_embeddings=from_embeddings)
        backward = trainer.accelerator.backward

        def whole_backward(value: Tensor, **kwargs: Any) -> None:
            backward(value, **kwargs)
            spans.add("encoder", began.pop())

        began: list[float] = []

        def embedded(_: Any, inputs: Any, embeddings: tuple[Tensor, Tensor]) -> None:
            # The first of the two: autograd comes to the other when it is through with the texts of the first.
            register_multi_grad_hook(embeddings, lambda _: began.append(now()), mode="any")

        encoder.register_forward_hook(embedded)
        encoder.forward = spans.timed("encoder", encoder.forward)  # type: ignore[method-assign]
        trainer.accelerator.backward = whole_backward
        trainer.data_collator = spans.timed("batch", trainer.data_collator)
        trainer.run()
    means = spans.mean()
    rest = means["step"] - means["encoder"]
    seconds = {f"{part}_ms": round(1000 * value, 2) for part, value in means.items()}
    share = trainer.clock.loss_share()
    assert share is not None
    return {"loss": name, **seconds, "loss_share": round(share, 5), "overhead": round(rest / means["step"], 4)}
