"""Digits and time of the ways to the batch-Gaussian loss's polar factor, on this device."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.stages import Context, main
from benchmarks.gpu.stages.device import describe
from benchmarks.polar_factor import measure


def run(context: Context) -> dict[str, Any]:
    describe()
    return {"rows": measure(["cuda"])}


if __name__ == "__main__":
    main("polar_factor", run)
