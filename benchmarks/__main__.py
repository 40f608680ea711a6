"""`python -m benchmarks`: times every loss on the CPU, prints the figures and keeps them as JSON."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--select", default="", help="pytest -k expression")
    parser.add_argument("--out", type=Path, help="result file; default benchmarks/results/cpu-<date>.json")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "raw.json"
        pytest = [sys.executable, "-m", "pytest", str(HERE), "-o", "addopts=", "-o", "python_files=bench_*.py", "-q"]
        pytest += [
            "-p",
            "no:cacheprovider",
            f"--benchmark-json={raw}",
            "--benchmark-disable-gc",
            "--benchmark-columns=median",
        ]
        if arguments.select:
            pytest += ["-k", arguments.select]
        status = subprocess.run(pytest, cwd=HERE.parent, check=False).returncode
        if status != 0:
            return status
        measured = json.loads(raw.read_text())

    where = machine.describe()
    rows = [row(b) for b in measured["benchmarks"]]
    out = arguments.out or HERE / "results" / f"cpu-{where['date']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n")
    for r in rows:
        goal = f"  goal {r['goal']:.2f} {'met' if r['ratio'] <= r['goal'] else 'MISSED'}" if "goal" in r else ""
        print(f"{r['ratio']:8.3f} x {r['name'].partition('[')[2].rstrip(']'):<76}{goal}")
    print(f"-> {out}")
    return 0


def row(benchmark: dict[str, Any]) -> dict[str, Any]:
    extra = benchmark["extra_info"]
    return {"name": benchmark["name"], **extra.pop("claim"), **extra, "rounds": benchmark["stats"]["rounds"]}


if __name__ == "__main__":
    sys.exit(main())
