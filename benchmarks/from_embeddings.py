"""`python -m benchmarks.from_embeddings`: time and memory of a step against the number of passages, with scores stored
and without; kept in benchmarks/results/from-embeddings-<date>.json. From that it writes docs/from_embeddings.md and
draws its picture. With --page nothing is measured; with --check nothing is written either, and it fails if the page
does not hold what the JSON says.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import losses, machine
from benchmarks.losses.from_embeddings import CHUNKED, CROSS_ENTROPY, STORED, SUFFIX
from benchmarks.memory import peak
from benchmarks.problem import Inputs, Loss, Problem, training_step
from benchmarks.stored import RESULTS, newest, stale

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "from_embeddings.md"
PICTURE = ROOT / "docs" / "from_embeddings.png"

K, WIDTH = 8, 384
PASSAGES = (1024, 2048, 4096, 8192, 16384, 32768)
OURS = "wassrank native"
ROUTES = (
    ("grade_wasserstein", OURS),
    ("info_nce", OURS),
    ("grade_wasserstein", STORED),
    ("info_nce", CROSS_ENTROPY),
    ("info_nce", CHUNKED),
)
SECONDS, FEWEST = 8.0, 3


def problem(loss: str, N: int) -> Problem:
    return Problem(f"{loss}{SUFFIX}", (N // K, N, WIDTH))


def prepared(loss: str, route: str, N: int) -> tuple[Loss, Inputs]:
    of = losses.benchmark(f"{loss}{SUFFIX}")
    asked = problem(loss, N)
    return of.contenders(asked, "cpu")[route].prepare(asked), of.inputs(asked, "cpu", 0)


def measure(N: int) -> list[dict[str, Any]]:
    """All routes in turn, as often as fits; then, alone, what torch holds; and in a process of its own what that takes
    in all."""
    steps = {(loss, route): prepared(loss, route, N) for loss, route in ROUTES}
    times: dict[tuple[str, str], list[float]] = {of: [] for of in steps}
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS or len(times[ROUTES[-1]]) < FEWEST + 1:
        for of, (loss, inputs) in steps.items():
            start = time.perf_counter()
            training_step(loss, inputs)
            times[of].append(time.perf_counter() - start)
    rows = []
    for (name, route), (loss, inputs) in steps.items():
        for leaf in inputs.leaves:
            leaf.grad = None
        gradients = sum(leaf.nbytes for leaf in inputs.leaves)
        row: dict[str, Any] = {"loss": name, "route": route, "N": N}
        row["seconds"] = statistics.median(times[name, route][1:])
        row["extra_bytes"] = peak(lambda: training_step(loss, inputs)) - gradients  # noqa: B023
        row["process_bytes"] = in_a_process(name, route, N)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def in_a_process(loss: str, route: str, N: int) -> int:
    """The highest resident size of a process that takes one step, less what it had before, gradients included."""
    command = [sys.executable, "-m", "benchmarks.from_embeddings", "--one", loss, route, str(N)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


def one(loss: str, route: str, N: int) -> int:
    small, few = prepared(loss, route, K * 16)
    training_step(small, few)  # what libraries set up on their first call is not the step's
    run, inputs = prepared(loss, route, N)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the highest size so far is forgotten
    training_step(run, inputs)
    highest = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(highest.split()[1]) * 1024 - before


def page() -> str:
    path, result = newest("from-embeddings-*.json")
    where = result["machine"]
    lines = [
        "# Losses from embeddings: time and memory",
        "",
        "Written by `python -m benchmarks.from_embeddings`. A step forward and backward, "
        f"float32, N passages of width {WIDTH}, Q = N/{K} queries of {K}, {where['threads']} threads of {where['cpu']} "
        f"({where['instruction_set']}), torch {where['torch']}, {where['date']}. Routes took turns; times are medians. "
        "Memory is the most that torch holds at a time beyond inputs and gradients; a process's is all that its "
        "resident size rises by, gradients included.",
        "",
        "Stored scores take 3 products of 2QNd operations, tiles 4 (scores are computed again in the backward), so "
        "that a step costs up to a third more than storing where products are all that matters; what it saves is "
        "writing and reading [Q, N] three times over. Its memory is a tile of scores, one of passages' gradients and "
        "some numbers a row, whatever N is.",
        "",
        "| N | loss | route | time | memory | of the scores | process |",
        "|---:|---|---|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        scores = 4 * row["N"] ** 2 // K
        lines.append(
            f"| {row['N']} | `{row['loss']}` | {row['route']} | {row['seconds'] * 1e3:,.0f} ms "
            f"| {row['extra_bytes'] / 1e6:,.1f} MB | {row['extra_bytes'] / scores:.0%} "
            f"| {row['process_bytes'] / 1e6:,.0f} MB |"
        )
    lines += ["", f"![time and memory against N]({PICTURE.name})", ""]
    lines += [f"From [{path.name}](../benchmarks/results/{path.name}).", ""]
    return "\n".join(lines)


def draw() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from benchmarks.pictures import COLOURS, MARKS

    _, result = newest("from-embeddings-*.json")
    canvas, both = pyplot.subplots(1, 2, figsize=(11, 4.5), dpi=100)
    for i, (loss, route) in enumerate(ROUTES):
        rows = [row for row in result["rows"] if (row["loss"], row["route"]) == (loss, route)]
        N = [row["N"] for row in rows]
        label = f"{loss}: {route}"
        both[0].plot(N, [1e3 * row["seconds"] for row in rows], MARKS[i] + "-", color=COLOURS[i], label=label)
        both[1].plot(N, [row["extra_bytes"] / 1e6 for row in rows], MARKS[i] + "-", color=COLOURS[i], label=label)
    for axes, label in zip(both, ("ms, forward and backward", "MB beyond inputs and gradients"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel=f"N, with Q = N/{K}", ylabel=label)
        axes.set_xticks(PASSAGES, [str(N) for N in PASSAGES])
        axes.minorticks_off()
        axes.grid(alpha=0.25, which="both")
    both[0].legend(fontsize=7)
    where = result["machine"]
    canvas.suptitle(f"from embeddings: {where['threads']} threads of {where['cpu']}, {where['date']}", fontsize=10)
    canvas.tight_layout()
    canvas.savefig(PICTURE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.from_embeddings", description=__doc__)
    parser.add_argument("--page", action="store_true", help="from stored results")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("LOSS", "ROUTE", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(machine.THREADS)
    if options.one:
        loss, route, N = options.one
        print(one(loss, route, int(N)))
        return 0
    if options.check:
        return stale(PAGE, page(), "benchmarks.from_embeddings")
    if not options.page:
        where = machine.describe()
        rows = [row for N in PASSAGES for row in measure(N)]
        out = RESULTS / f"from-embeddings-{where['date']}.json"
        out.write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    draw()
    return 0


if __name__ == "__main__":
    sys.exit(main())
