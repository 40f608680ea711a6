"""What machine and versions a figure belongs to; nothing that names a host or a user."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import torch

import wassrank
from wassrank.backends import resolve_backend

THREADS = 2
"""What CPU figures are taken with."""


def describe() -> dict[str, Any]:
    description: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "wassrank": wassrank.__version__,
        "date": today(),
    }
    if resolve_backend("cpu") == "native":
        from wassrank import _C

        description["instruction_set"] = _C.build_info()["cpu_instruction_set_in_use"]
    return description


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
