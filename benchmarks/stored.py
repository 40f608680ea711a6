"""Results that are kept: benchmarks/results/<what>-<date>.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def newest(pattern: str) -> tuple[Path, dict[str, Any]]:
    """By the date its name ends in."""
    path = max(RESULTS.glob(pattern), key=lambda path: path.stem[-10:])
    return path, json.loads(path.read_text(encoding="utf-8"))


def stale(page: Path, text: str, command: str) -> int:
    """The exit status of --check: 1, and a line, if the page does not hold what the newest results say."""
    if page.read_text(encoding="utf-8") == text:
        return 0
    print(f"{page.name} does not hold the newest results: run python -m {command} --page")
    return 1
