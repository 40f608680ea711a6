"""Hugging Face's checkpoints: which one a run that was cut off goes on from, and whether it is one of this model."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from training.errors import InputError

LAST = "last"  # --resume_from_checkpoint last


def last_checkpoint(folder: Path, processes: int = 1) -> Path | None:
    """The newest checkpoint in `folder` that was written whole; None if there is none.

    A run may be killed while it writes one. The trainer's state is what its first process writes last; the others write
    the state of their random numbers.
    """
    named = [path for path in folder.glob("checkpoint-*") if _step(path).isdecimal()]
    newest_first = sorted(named, key=lambda path: -int(_step(path)))
    return next((path for path in newest_first if _whole(path, processes)), None)


def check_fits(checkpoint: Path, model: nn.Module) -> None:
    """Hugging Face's Trainer takes what it finds of a checkpoint's weights, and keeps the start's for the rest.

    Raises:
        InputError: there is no such checkpoint, it cannot be read, or is of a model of other weights.
    """
    if not (checkpoint / "trainer_state.json").is_file():
        raise InputError(f"--resume_from_checkpoint {checkpoint}: is no checkpoint (it has no trainer_state.json)")
    weights = checkpoint / "model.safetensors"
    if not weights.is_file():
        return  # sharded among processes: whoever shards (FSDP, DeepSpeed) checks
    try:
        with safe_open(weights, framework="pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise InputError(f"{weights}: cannot be read: {error}") from error
    expected = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise InputError(
                f"--resume_from_checkpoint {checkpoint}: is of another model: its {name} is "
                f"{found.get(name, 'missing')}, this one's {expected.get(name, 'missing')}"
            )


def _step(checkpoint: Path) -> str:
    return checkpoint.name.removeprefix("checkpoint-")


def _whole(checkpoint: Path, processes: int) -> bool:
    ranks = [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]
    if not all(zipfile.is_zipfile(checkpoint / rank) for rank in ranks):
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
