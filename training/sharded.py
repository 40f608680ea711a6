"""Encoders whose weights are spread over the processes that train them: FSDP, or the third stage of DeepSpeed's ZeRO.

Spread weights are put together by hooks on the step's forward alone. To embed texts, to be measured and to be saved an
encoder must be whole: a copy that waited on the CPU is given the weights, in every process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from training.encoder import BiEncoder


@contextmanager
def loaded_whole(args: TrainingArguments) -> Iterator[None]:
    """Inside, models are read as they are: with ZeRO 3 transformers would spread them out at once."""
    config = getattr(args, "hf_deepspeed_config", None)
    if config is not None:
        unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            set_hf_deepspeed_config(config)


class Whole:
    """What makes a trainer's encoder whole again; of no effect where weights are not spread.

    Args:
        trainer: one that has not prepared its model yet.
        encoder: its model.
    """

    def __init__(self, trainer: Trainer, encoder: BiEncoder) -> None:
        self._trainer = trainer
        self._encoder = encoder
        spread = trainer.is_fsdp_enabled or (
            trainer.is_deepspeed_enabled and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3
        )
        self._copy: nn.Module | None = deepcopy(encoder.encoder).cpu() if spread else None

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The encoder is whole inside, and spread as before at the end."""
        spread = self._encoder.encoder
        self.for_good()
        try:
            yield
        finally:
            self._encoder.encoder = spread

    def for_good(self) -> None:
        """The encoder is whole from now on, and no longer the one that is trained."""
        if self._copy is None:
            return
        trainer: Any = self._trainer
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # whole in the first process at least
        self._copy.to(trainer.args.device)
        if dist.get_rank() == 0:
            own = {name.removeprefix("encoder."): weight for name, weight in state.items()}
            self._copy.load_state_dict(own)
        with torch.no_grad():
            for weight in self._copy.state_dict().values():
                dist.broadcast(weight, src=0)
        self._encoder.encoder = self._copy
