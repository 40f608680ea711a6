"""`python -m benchmarks.readme`: writes the README's tables from the newest stored results. No figure there is typed.

With --check it changes nothing and fails if the README does not hold what the results say.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import goals_table
from benchmarks.stored import RESULTS, newest
from training.report import difference
from training.report import table as demo_table

MEMORY_OF = {"in_batch": "in batch", "packed": "packed", "floats": "float labels"}

HERE = Path(__file__).parent
README = HERE.parent / "README.md"


def benchmarks() -> str:
    path, result = newest("cpu-*.json")
    where = result["machine"]
    lines = [
        f"Forward + backward, {where['threads']} threads of {where['cpu']} ({where['instruction_set']}), "
        f"torch {where['torch']}, {where['date']}. Both sides of a line took turns in one run; time is the ratio of "
        f"their medians, quiet that of their 20th percentiles: where they differ, a busy machine slowed one side more.",
        "",
        "| loss | scores | labels | p | against | time | quiet | ours | theirs |",
        "|---|---|---|---|---|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        ours, theirs = row["seconds"]["p50"] * 1e6, row["rival_seconds"]["p50"] * 1e6
        quiet = row["seconds"]["p20"] / row["rival_seconds"]["p20"]
        lines.append(
            f"| `{row['loss']}` | {size(row)} | {row['labels'].replace('_', '-')} | {row['p']:g} "
            f"| {quoted(row['rival'])} | **{row['ratio']:.2f} ×** | {quiet:.2f} × | {ours:,.0f} µs | {theirs:,.0f} µs |"
        )
    memory = {}
    for row in result["rows"]:
        if row["loss"] == "grade_wasserstein" and "extra_memory" in row and row["labels"] in MEMORY_OF:
            memory[row["labels"]] = f"{MEMORY_OF[row['labels']]} {size(row)} {row['extra_memory']:.1%}"
    lines += [
        "",
        f"`grade_wasserstein`'s memory beyond inputs and gradient, as a share of the scores: "
        f"{', '.join(memory.values())}. All figures: [{path.name}](benchmarks/results/{path.name}); `make bench` "
        f"measures them anew.",
    ]
    return "\n".join(lines)


def size(row: dict[str, Any]) -> str:
    """ "64 × 256", and the dtype where it is not float32."""
    shape = " × ".join(map(str, row["shape"]))
    return shape if row["dtype"] == "float32" else f"{shape} {row['dtype']}"


def quoted(name: str) -> str:
    """A function's name as code."""
    return re.sub(r"^((?:F|ot|torch|wassrank)\.\w+)", r"`\1`", name)


def gpu() -> str:
    if not list(RESULTS.glob("gpu-*.json")):
        return (
            "None yet: no CUDA or Triton kernel of this library has met a GPU. `make gpu` on an NVIDIA machine builds, "
            "tests and measures them."
        )
    path, result = newest("gpu-*.json")
    where, copy = result["machine"], result["ceilings"]["copy_gb_per_s"]
    counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(result["tests"]["counts"].items()))
    lines = [
        f"{where['gpu']}, driver {where['driver']}, torch {where['torch']}, {where['date']}. Tests marked gpu: "
        f"{counts}. Forward + backward, median device time; useful bytes a second as a share of the {copy:,.0f} GB/s a "
        f"copy reaches there; wall is a Python loop's time a step.",
        "",
        "| loss | scores | labels | p | | device | of copy | wall |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    for row in result["timings"]:
        for name, figures in row["figures"].items():
            if "device_us" not in figures:
                cells = "failed | – | –"
            else:
                device, wall = figures["device_us"]["p50"], figures["wall_us"]["p50"]
                cells = f"{device:,.1f} µs | {figures['gb_per_s'] / copy:.0%} | {wall:,.1f} µs"
            lines.append(
                f"| `{row['loss']}` | {size(row)} | {row['labels'].replace('_', '-')} | {row['p']:g} "
                f"| {quoted(name)} | {cells} |"
            )
    lines += ["", goals_table(result["goals"]), "", f"From [{path.name}](benchmarks/results/{path.name})."]
    return "\n".join(lines)


def demo() -> str:
    path, result = newest("demo-*.json")
    where, settings = result["machine"], result["settings"]
    zero_shot, *trained = result["rows"]
    gains = "; ".join(
        f"{row['name']} {gain:+.3f} ± {error:.3f}" for row in trained for gain, error in [difference(row, zero_shot)]
    )
    return "\n".join(
        [
            f"`make demo` on {where['cores']} cores of {where['cpu']}, torch {where['torch']}, {where['date']}: "
            f"all-MiniLM-L6-v2, {settings['train_queries']} training queries of {settings['group_size']} passages, "
            f"{settings['test_queries']} test queries over {settings['passages']} passages, seed {settings['seed']}.",
            "",
            demo_table(result["rows"]),
            "",
            f"nDCG@10 over zero-shot, paired over queries, ± one standard error: {gains}.",
            "",
            f"From [{path.name}](benchmarks/results/{path.name}).",
        ]
    )


def filled(readme: str) -> str:
    for name, text in (("benchmarks", benchmarks()), ("gpu", gpu()), ("demo", demo())):
        marks = rf"(<!-- results:{name} -->\n).*?(<!-- end -->)"
        readme, found = re.subn(marks, lambda m: f"{m[1]}{text}\n{m[2]}", readme, flags=re.DOTALL)  # noqa: B023
        if found != 1:
            raise SystemExit(f"README.md needs one place marked <!-- results:{name} -->, has {found}")
    return readme


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    before = README.read_text(encoding="utf-8")
    after = filled(before)
    if check and after != before:
        print("README.md does not hold the newest results: run python -m benchmarks.readme", file=sys.stderr)
        return 1
    if not check:
        README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
