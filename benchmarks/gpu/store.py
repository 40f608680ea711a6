"""What a run has found, on disk as soon as it is known, so that a run that was cut goes on where it ended.

DIR/run.json             what the run is of: code and device; a run of other code does not mix with it
DIR/stages/<stage>.json  a stage that has ended: {"status": "ok" | "failed" | "skipped", "seconds", ...}
DIR/stages/<name>.jsonl  what a long stage finds, line by line
DIR/logs/<stage>.log     what the stage printed
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCES = ("csrc", "wassrank", "benchmarks", "tests", "training", "setup.py")


class OtherRunError(Exception):
    """The folder holds a run of other code or of another device."""


class Store:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stages = folder / "stages"
        self.logs = folder / "logs"
        for path in (folder, self.stages, self.logs):
            path.mkdir(parents=True, exist_ok=True)

    def claim(self, what: dict[str, str]) -> None:
        """Makes this folder the run of `what`.

        Raises:
            OtherRunError: it holds another's.
        """
        path = self.folder / "run.json"
        if not path.exists():
            write(path, what)
            return
        held = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in what if held.get(name) != what[name]]
        if differing:
            raise OtherRunError(
                f"{self.folder} holds a run of "
                + ", ".join(f"{name} {held.get(name)!r} (now {what[name]!r})" for name in differing)
                + ": name another --out, or remove that one"
            )

    def stage(self, name: str) -> dict[str, Any] | None:
        path = self.stages / f"{name}.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def finish(self, name: str, result: dict[str, Any]) -> None:
        write(self.stages / f"{name}.json", result)

    def append(self, name: str, line: dict[str, Any]) -> None:
        with (self.stages / f"{name}.jsonl").open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)  # without the half of a line that a cut left
            file.write(json.dumps(line).encode() + b"\n")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """What was appended; a last line that a cut left half-written is no line."""
        path = self.stages / f"{name}.jsonl"
        if not path.exists():
            return []
        whole = path.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in whole]


def write(path: Path, content: Any) -> None:
    """JSON, or text as it is; the file is whole or not there."""
    text = content if isinstance(content, str) else json.dumps(content, indent=1) + "\n"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def code_hash(root: Path = ROOT, sources: Iterable[str] = SOURCES) -> str:
    """Of every source file, so that results are never those of other code."""
    digest = hashlib.sha256()
    for source in sources:
        path = root / source
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
        for file in files:
            digest.update(str(file.relative_to(root)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


SUFFIXES = {".py", ".cpp", ".h", ".cu", ".cuh"}
