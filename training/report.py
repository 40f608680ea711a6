"""The demo's result: a report (plain data, saved as JSON), the table made from it, and the picture.

python -m training.report training/out/demo/report.json        # prints the table again, in Markdown
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import transformers
from matplotlib.figure import Figure

import wassrank
from training.cli import OneLineErrors, exit_status
from training.errors import InputError, first_line
from training.tables import markdown_table

# Okabe and Ito's colours: told apart with any colour vision.
COLOURS = ("#999999", "#E69F00", "#0072B2", "#CC79A7", "#009E73")

Row = dict[str, Any]
"""A line of the table (name, ndcg@10, mrr@10, seconds_per_step, loss_share, backend) and of the picture."""


def machine(device: torch.device) -> dict[str, str | int]:
    """Where and when the figures were taken."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "wassrank": wassrank.__version__,
    }


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, aligned so that it also reads well as it is."""
    lines: list[Sequence[str]] = []
    for row in rows:
        seconds, share = row["seconds_per_step"], row["loss_share"]
        lines.append(
            (
                row["name"],
                f"{row['ndcg@10']:.3f}",
                f"{row['mrr@10']:.3f}",
                "–" if seconds is None else f"{seconds:.2f}",
                "–" if share is None else f"{share:.2%}",
                row["backend"] or "–",
            )
        )
    header = ["", "nDCG@10", "MRR@10", "seconds a step", "of it in the loss", "backend"]
    return markdown_table(header, lines, words=(0, 5))


def difference(row: Row, other: Row) -> tuple[float, float]:
    """row's nDCG@10 minus other's, and its standard error over the queries, the same for both."""
    pairs = [row["ndcg_of_query"][query] - value for query, value in other["ndcg_of_query"].items()]
    return mean(pairs), standard_error(pairs)


def draw(rows: Sequence[Row], path: Path) -> None:
    """A PNG: nDCG@10 as bars, and a loss curve a trained row, each with its own axis: their units differ."""
    trained = [(row, colour) for row, colour in zip(rows, COLOURS, strict=False) if row["losses"]]
    figure = Figure(figsize=(10, 1.2 + 1.4 * len(trained)), layout="constrained")
    panels: Any = figure.subfigures(1, 2)
    left, right = panels

    axes = left.subplots(len(trained), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (row, colour) in zip(axes, trained, strict=True):
        axis.plot(row["steps"], row["losses"], color=colour, linewidth=2)
        axis.set_title(row["name"], fontsize=10, loc="left")
        axis.set_ylabel(f"loss ({row['unit']})", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")

    bars = right.subplots()
    places = range(len(rows))
    values = [row["ndcg@10"] for row in rows]
    errors = [standard_error(list(row["ndcg_of_query"].values())) for row in rows]
    bars.bar(places, values, yerr=errors, capsize=4, color=COLOURS[: len(rows)])
    for place, value, error in zip(places, values, errors, strict=True):
        bars.text(place, value + error + 0.01, f"{value:.3f}", ha="center", va="bottom")
    bars.set_xticks(places, [row["name"].replace(" ", "\n") for row in rows], fontsize=9)
    bars.set_ylim(0, 1.1)
    queries = len(rows[0]["ndcg_of_query"])
    bars.set_title(f"nDCG@10, {queries} test queries (whiskers: ± 1 standard error)", fontsize=10, loc="left")
    bars.grid(axis="y", alpha=0.3)
    bars.set_axisbelow(True)

    figure.savefig(path, dpi=150)


def standard_error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main(path: str) -> None:
    """Prints the table of a report.

    Raises:
        InputError: there is no such file, or it is no demo's report.
    """
    try:
        report: Mapping[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        text = table(report["rows"])
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a demo's report: {first_line(error)}") from error
    print(text)


if __name__ == "__main__":
    parser = OneLineErrors(prog="training.report", description="The demo's table, in Markdown.")
    parser.add_argument("report", help="report.json of a demo")
    report_file = parser.parse_args().report
    sys.exit(exit_status(lambda: main(report_file)))
