"""`python -m benchmarks.gpu --out DIR`: builds the extension for the GPU in hand, runs the tests that wait for one,
trains, times, and writes DIR/results.json, DIR/report.md and pictures.

A run that was cut goes on where it ended when it is started again with the same DIR. A kernel that fails is reported
and the rest goes on. Exit status: 0, everything that ran was well; 1, something failed or there is no GPU (0 with
--allow-no-gpu); 2, DIR holds something else.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import gather, page
from benchmarks.gpu.runner import Stage, command, run_stages
from benchmarks.gpu.store import ROOT, OtherRunError, Store, code_hash, write

STAGES = (
    Stage("device", share=0.1),
    Stage("build", share=0.3, needs=("device",)),
    Stage("ceilings", share=0.1, needs=("device",)),
    Stage("tests", share=0.3, needs=("device",), restarts=8),
    Stage("timings", share=0.4, needs=("device",), restarts=8),
    Stage("polar_factor", share=0.1, needs=("device",)),
    Stage("end_to_end", share=0.2, needs=("device",)),
    Stage("sanitizer", share=0.2, needs=("device",)),
)
TUNE = Stage("tune", share=0.5, needs=("device",))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found; may hold a run that was cut")
    parser.add_argument("--minutes", type=float, default=25.0, help="budget; the most informative comes first")
    parser.add_argument("--allow-no-gpu", action="store_true", help="exit status 0 where there is no GPU")
    parser.add_argument("--tune", action="store_true", help="also search the launch configurations, and keep the best")
    parser.add_argument("--encoder", help="model folder or hub name to train; default: a small one of random weights")
    parser.add_argument("--llm", help="language model for the generator; default: none")
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes must be positive, got {options.minutes:g}")
    return options


def device_name() -> str:
    """Asked in a process of its own: this one must outlive whatever happens to the device."""
    ask = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'none')"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "none"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    store = Store(options.out.resolve())
    try:
        store.claim({"code": code_hash(), "device": device_name()})
    except OtherRunError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    stages = [*STAGES, TUNE] if options.tune else list(STAGES)
    names = [stage.name for stage in stages]
    passed_on = [f"--{name}={value}" for name in ("encoder", "llm") if (value := getattr(options, name))]

    def ended(stage: Stage, result: dict[str, Any]) -> None:
        print(f"{stage.name}: {result['status']}" + (f" ({result['reason']})" if result.get("reason") else ""))
        keep(store, names)

    run_stages(stages, store, 60 * options.minutes, lambda stage, left: command(stage, store, left, passed_on), ended)
    results = keep(store, names)
    draw(store)
    print(page(results).partition("## Stages")[0])
    print(f"-> {store.folder / 'results.json'}, report.md")
    statuses = {name: stage["status"] for name, stage in results["stages"].items()}
    if statuses["device"] == "skipped":
        return 0 if options.allow_no_gpu else 1
    name = results["machine"].get("gpu", "gpu").lower().replace("nvidia ", "").replace(" ", "-")
    print(f"to keep: cp {options.out}/results.json benchmarks/results/gpu-{name}-{results['machine']['date']}.json")
    return int("failed" in statuses.values())


def keep(store: Store, names: Sequence[str]) -> dict[str, Any]:
    results = gather(store, names)
    write(store.folder / "results.json", results)
    write(store.folder / "report.md", page(results))
    return results


def draw(store: Store) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        print("pictures: matplotlib is not installed; elsewhere: python -m benchmarks.pictures results.json")
        return
    picture = [sys.executable, "-m", "benchmarks.pictures", str(store.folder / "results.json"), "--out"]
    drawn = subprocess.run([*picture, str(store.folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"pictures: {' '.join((drawn.stdout if drawn.returncode == 0 else drawn.stderr).splitlines()[-2:])}")


if __name__ == "__main__":
    sys.exit(main())
