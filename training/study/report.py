"""A study's report, from its data (`findings.py`): tables and two pictures.

report.md         means and which differences are more than luck; what was chosen; what each option is worth
report.json       the data
differences.png   nDCG@10 minus that of the contestant to beat, with 95 % intervals
options.png       nDCG@10 on held-out training queries against temperature, a line for each target
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from training.errors import InputError
from training.measures import MAIN
from training.report import COLOURS
from training.significance import CORRECT, Difference
from training.significance import table as significance_table
from training.study.findings import ZERO_SHOT
from training.tables import markdown_table

AGAINST = ("InfoNCE", "KL")
CHOICES = ("temperature", "target", "positives_from", "info_nce", "kl")
"""What is told of a setting where it is not known which others there were."""

Data = Mapping[str, Any]
"""`Found.data`, or what was kept of it."""


def write(data: Data, folder: Path) -> str:
    """All files; returns the text of report.md."""
    text = "\n\n".join(sections(data))
    (folder / "report.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    draw_differences(data, folder / "differences.png")
    if any(data["settings"].values()):
        draw_options(data, folder / "options.png")
    return text


def sections(data: Data) -> list[str]:
    """The paragraphs and tables."""
    queries = len(data["ndcg_of_query"][ZERO_SHOT])
    found = [f"{queries} queries, each measured by models that were neither trained nor chosen by it.", means(data)]
    for name in data["differences"]:
        found += [f"Against {name}, nDCG@10 over the queries (* holds after correction):"]
        found += [significance_table(differences_from(data, name))]
    found += ["What was chosen, in how many folds:", chosen(data)]
    if any(data["settings"].values()):
        found += ["The best settings, by nDCG@10 on held-out training queries:", settings(data)]
    return found


def means(data: Data) -> str:
    """A line a contestant; the best of each measure in bold; how far seeds differ."""
    lines = []
    for name in data["means"][MAIN]:
        cells = [
            f"**{values[name]:.4f}**" if values[name] == max(values.values()) else f"{values[name]:.4f}"
            for values in data["means"].values()
        ]
        over_seeds = data["over_seeds"].get(name)
        lines.append([name, *cells, "–" if over_seeds is None else f"{over_seeds:.4f}"])
    return markdown_table(["", *data["means"], "nDCG@10 over seeds, ±"], lines, words=(0,))


def differences_from(data: Data, name: str) -> list[Difference]:
    return [
        Difference(**{field: value for field, value in one.items() if field != "significant"})
        for one in data["differences"][name]
    ]


def chosen(data: Data) -> str:
    lines = []
    for name, of_folds in data["chosen"].items():
        varying = _varying(data["settings"][name]) or [one for one in CHOICES if of_folds[0].get(one)]
        counts = Counter(_told(one, varying) for one in of_folds)
        epochs = sorted(one["epochs"] for one in of_folds)
        told = "; ".join(f"{setting} ({count})" for setting, count in counts.most_common())
        lines.append([name, told, f"{epochs[0]} … {epochs[-1]}"])
    return markdown_table(["", "settings", "epochs"], lines, words=(0, 1, 2))


def settings(data: Data, most: int = 3) -> str:
    lines = [
        [name if place == 0 else "", _told(one, _varying(valued)), f"{one['epochs']}", f"{one[MAIN]:.4f}"]
        for name, valued in data["settings"].items()
        for place, one in enumerate(valued[:most])
    ]
    return markdown_table(["", "setting", "epochs", MAIN], lines, words=(0, 1))


def _varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The options in which settings differ; none, if there are none."""
    options = dict.fromkeys(option for one in settings for option in one if option not in (MAIN, "epochs"))
    return [option for option in options if any(one.get(option) != settings[0].get(option) for one in settings)]


def _told(setting: Mapping[str, Any], varying: Sequence[str]) -> str:
    return ", ".join(f"{option} {setting[option]}" for option in varying if option in setting) or "–"


def draw_differences(data: Data, path: Path) -> None:
    """A PNG: each contestant's difference from the first of those compared with, the best on top."""
    name = next(iter(data["differences"]))
    ordered = sorted(differences_from(data, name), key=lambda one: one.mean)
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(ordered)), layout="constrained")
    axes: Any = figure.subplots()
    for place, one in enumerate(ordered):
        colour = COLOURS[2] if one.significant else COLOURS[0]
        axes.plot([one.low, one.high], [place, place], color=colour, linewidth=2)
        axes.plot([one.mean], [place], "o", color=colour)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(ordered)), [one.first for one in ordered])
    axes.set_xlabel(f"nDCG@10 minus that of {name}: mean over queries, 95 % interval")
    axes.set_title("blue: significant after correction", fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_options(data: Data, path: Path) -> None:
    """A PNG: a panel a contestant, the best of the other options at each temperature, a line for each target."""
    names = [name for name, valued in data["settings"].items() if valued]
    rows = (len(names) + 2) // 3
    figure = Figure(figsize=(9, 0.8 + 2.4 * rows), layout="constrained")
    panels: Any = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False)
    flat = panels.flatten()
    ticks = sorted({one["temperature"] for name in names for one in data["settings"][name]})
    for axes, name in zip(flat, names, strict=False):
        lines: dict[str, dict[float, float]] = defaultdict(dict)
        for one in reversed(data["settings"][name]):  # the best last, so that it stays
            lines[_line(one)][one["temperature"]] = one[MAIN]
        for number, (label, line) in enumerate(sorted(lines.items())):
            temperatures = sorted(line)
            values = [line[one] for one in temperatures]
            axes.plot(temperatures, values, "o-", markersize=3, color=COLOURS[number % len(COLOURS)], label=label)
        axes.axhline(data["means"][MAIN][ZERO_SHOT], color="black", linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=7)
        axes.set_title(name, fontsize=10, loc="left")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    for axes in flat[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("temperature", fontsize=10)
    figure.supylabel("nDCG@10, held-out training queries", fontsize=10)
    figure.savefig(path, dpi=120)


def _line(setting: Mapping[str, Any]) -> str:
    if setting["name"] == "info_nce":
        return f"grade ≥ {setting['positives_from']}" if "positives_from" in setting else "best grade"
    return f"softmax, {setting['label_temperature']:g}" if setting["target"] == "softmax" else str(setting["target"])


def check_against(against: Sequence[str], contestants: Collection[str]) -> Sequence[str]:
    """The contestants to compare with: those told, else AGAINST."""
    for name in against or AGAINST:
        if name not in contestants:
            raise InputError(f"--against {name}: no contestant; there are {', '.join(contestants)}")
    return against or AGAINST


def add_report_options(parser: argparse.ArgumentParser) -> None:
    against = "contestant that the others are tested against; repeatable (default: InfoNCE and KL)"
    parser.add_argument("--against", action="append", default=[], help=against)
    correction = "of the p-values against one contestant (default: %(default)s)"
    parser.add_argument("--correction", choices=CORRECT, default="holm", help=correction)
