"""compute-sanitizer over a short list of calls, where it is present: memory accesses, then races in shared memory."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import Any

from benchmarks.gpu.stages import Context, SkippedError, main
from benchmarks.gpu.stages.device import describe
from benchmarks.gpu.store import ROOT

TOOLS = ("memcheck", "racecheck")
CALLS = "benchmarks.gpu.sanitized"


def run(context: Context) -> dict[str, Any]:
    describe()
    path = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if path is None:
        raise SkippedError("compute-sanitizer is not installed")
    tools: dict[str, Any] = {}
    for tool in TOOLS:
        command = [path, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", CALLS]
        try:
            process = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=max(5.0, context.left()), check=False
            )
        except subprocess.TimeoutExpired:
            tools[tool] = {"ran": False, "reason": "no time was left for it"}
            continue
        print(process.stdout, process.stderr)
        tools[tool] = verdict(process.returncode, process.stdout + process.stderr)
    failed = [tool for tool, result in tools.items() if result.get("errors")]
    if not any(result["ran"] for result in tools.values()):
        raise SkippedError("; ".join(f"{tool}: {result['reason']}" for tool, result in tools.items()))
    return {"tools": tools, "status": "failed" if failed else "ok", "reason": ", ".join(failed)}


def verdict(status: int, text: str) -> dict[str, Any]:
    """What the tool found; a tool that could not run has found nothing, which is not the same as no errors."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
    if summary is None or "wassrank: all calls ended" not in text:
        lines = [line for line in text.splitlines() if line.strip()]
        return {"ran": False, "reason": lines[-1][:300] if lines else f"exit status {status}"}
    return {"ran": True, "errors": status == 9, "summary": summary[1]}


if __name__ == "__main__":
    main("sanitizer", run)
