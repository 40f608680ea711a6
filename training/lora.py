"""LoRA (Hu et al. 2021, arXiv:2106.09685) by peft: low-rank changes of the encoder's linear layers are all that is
trained, and become part of its weights in the end. Needs the extra `lora`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from training.encoder import BiEncoder
from training.errors import InputError, first_line


@contextmanager
def low_rank(encoder: BiEncoder, rank: int | None, alpha: float, targets: Sequence[str] | None) -> Iterator[None]:
    """Inside, only changes of rank `rank` can be trained; at the end they are added to the weights. None: all weights.

    Args:
        encoder: changed in place.
        alpha: changes are multiplied by alpha / rank.
        targets: names of the layers that change; None: every linear one.

    Raises:
        InputError: peft is not there, or refuses rank or targets.
    """
    if rank is None:
        yield
        return
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError("--lora-rank needs peft: pip install 'wassrank[lora]'") from error
    try:
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets) if targets else "all-linear")
        encoder.encoder = get_peft_model(encoder.encoder, config)
    except ValueError as error:
        raise InputError(f"LoRA: {first_line(error)}") from error
    yield
    encoder.encoder = encoder.encoder.merge_and_unload()
