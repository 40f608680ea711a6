"""Options that a framework spells in its own way, or cannot have."""

from __future__ import annotations

from typing import Any

from wassrank.functional.checks import check_positive


def scale_of(scale: float | None, options: dict[str, Any], default: float) -> float:
    """What scores are multiplied by, where a framework has `scale` in place of temperature; takes `temperature` out of
    `options`.

    Raises:
        ValueError: both are given, or what is given is not positive."""
    if "temperature" in options:
        temperature = options.pop("temperature")
        if scale is not None:
            raise ValueError(
                f"scale is 1 / temperature: got scale={scale} and temperature={temperature}, pass one of them"
            )
        check_positive("temperature", temperature, "scores are divided by it")
        return float(1 / temperature)
    scale = default if scale is None else scale
    check_positive("scale", scale, "scores are multiplied by it")
    return scale


def check_one_number(options: dict[str, Any]) -> None:
    if options.get("reduction", "mean") == "none":
        raise ValueError("the trainer takes one number a batch: reduction must be 'mean' or 'sum', got 'none'")
