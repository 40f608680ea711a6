"""What a study found: tables, significance, pictures, and all of it as plain data.

report.md         means and which differences are more than luck; what was chosen; what each option is worth
report.json       the same as data, with nDCG@10 of every query
differences.png   nDCG@10 minus that of the contestant to beat, with 95 % intervals
options.png       nDCG@10 on held-out training queries against temperature, a line for each target
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from training.errors import InputError
from training.measures import MAIN, Quality
from training.report import COLOURS
from training.significance import CORRECT, Difference, differences
from training.significance import table as significance_table
from training.study.contestants import Contestants, Setting
from training.study.cross_validation import Result
from training.study.store import KEPT
from training.tables import markdown_table

ZERO_SHOT = "zero-shot"
AGAINST = ("InfoNCE", "KL")


@dataclass(frozen=True)
class Found:
    """Args:
    contestants: name → its settings.
    results: name → its result on each fold.
    zero_shot: the encoder as it is, on the queries of these folds.
    against: the contestants that others are compared with.
    correction: of the p-values of each such comparison; of `significance.CORRECT`.
    """

    contestants: Contestants
    results: Mapping[str, Sequence[Result]]
    zero_shot: Quality
    against: Sequence[str]
    correction: str

    def values(self, measure: str) -> dict[str, dict[str, float]]:
        """contestant → query → the measure, its mean over the seeds."""
        return {ZERO_SHOT: self.zero_shot.values(measure)} | {
            name: {
                query: mean(quality.of_query[query][measure] for quality in result.qualities)
                for result in results
                for query in result.qualities[0].of_query
            }
            for name, results in self.results.items()
        }

    def of_seeds(self, name: str) -> list[float]:
        """nDCG@10 of all queries, a value a seed."""
        seeds = zip(*(result.qualities for result in self.results[name]), strict=True)
        return [mean(value for one in qualities for value in one.values(MAIN).values()) for qualities in seeds]

    def tested(self) -> dict[str, list[Difference]]:
        """For each of `against` the others' differences from it."""
        values = self.values(MAIN)
        return {name: differences(values, name, self.correction) for name in self.against}

    def of_settings(self, name: str) -> list[tuple[Setting, float]]:
        """Each setting's nDCG@10 on held-out training queries, after the best number of epochs: the mean over folds,
        best first. All queries take part in it, so this is for choosing defaults, not for comparing losses."""
        if not self.results[name][0].validation:  # it was told its settings
            return []
        curves = [
            [mean(values) for values in zip(*of_folds, strict=True)]
            for of_folds in zip(*(result.validation for result in self.results[name]), strict=True)
        ]
        valued = [(setting, max(curve)) for setting, curve in zip(self.contestants[name], curves, strict=True) if curve]
        return sorted(valued, key=lambda pair: -pair[1])


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


def write(found: Found, study: Mapping[str, Any], machine: Mapping[str, Any], folder: Path) -> str:
    """All files; returns the text of report.md."""
    tested = found.tested()
    content = {
        "machine": machine,
        "study": study,
        "means": {
            measure: {name: mean(of_query.values()) for name, of_query in found.values(measure).items()}
            for measure in KEPT
        },
        "differences": {name: [asdict(one) for one in against] for name, against in tested.items()},
        "chosen": {
            name: [found.contestants[name][result.chosen].varied() | {"epochs": result.epochs} for result in results]
            for name, results in found.results.items()
        },
        "settings": {
            name: [setting.varied() | {MAIN: value} for setting, value in found.of_settings(name)]
            for name in found.results
        },
        "ndcg_of_query": {
            name: {query: round(value, 4) for query, value in of_query.items()}
            for name, of_query in found.values(MAIN).items()
        },
    }
    text = "\n\n".join(_sections(found, tested))
    (folder / "report.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    draw_differences(tested[found.against[0]], folder / "differences.png")
    if any(found.of_settings(name) for name in found.results):
        draw_options(found, folder / "options.png")
    return text


def _sections(found: Found, tested: Mapping[str, Sequence[Difference]]) -> list[str]:
    queries = len(found.zero_shot.of_query)
    sections = [f"{queries} queries, each measured by models that were neither trained nor chosen by it.", means(found)]
    for name, against in tested.items():
        sections += [
            f"Against {name}, nDCG@10 over the queries (* holds after correction):",
            significance_table(against),
        ]
    sections += ["What was chosen, in how many folds:", chosen(found)]
    if any(found.of_settings(name) for name in found.results):
        sections += ["The best settings, by nDCG@10 on held-out training queries:", settings(found)]
    return sections


def means(found: Found) -> str:
    """A line a contestant; the best of each measure in bold; how far seeds differ."""
    columns = {measure: {name: mean(q.values()) for name, q in found.values(measure).items()} for measure in KEPT}
    lines = []
    for name in columns[MAIN]:
        cells = [
            f"**{values[name]:.4f}**" if values[name] == max(values.values()) else f"{values[name]:.4f}"
            for values in columns.values()
        ]
        of_seeds = [] if name == ZERO_SHOT else found.of_seeds(name)
        lines.append([name, *cells, f"{stdev(of_seeds):.4f}" if len(of_seeds) > 1 else "–"])
    return markdown_table(["", *KEPT, "nDCG@10 over seeds, ±"], lines, words=(0,))


def chosen(found: Found) -> str:
    lines = []
    for name, results in found.results.items():
        counts = Counter(_told(found.contestants[name][result.chosen], name, found) for result in results)
        epochs = sorted(result.epochs for result in results)
        told = "; ".join(f"{setting} ({count})" for setting, count in counts.most_common())
        lines.append([name, told, f"{epochs[0]} … {epochs[-1]}"])
    return markdown_table(["", "settings", "epochs"], lines, words=(0, 1, 2))


def settings(found: Found, most: int = 3) -> str:
    lines = [
        [name if place == 0 else "", _told(setting, name, found), f"{value:.4f}"]
        for name in found.results
        for place, (setting, value) in enumerate(found.of_settings(name)[:most])
    ]
    return markdown_table(["", "setting", MAIN], lines, words=(0, 1))


def _told(setting: Setting, name: str, found: Found) -> str:
    """The options in which a contestant's settings differ."""
    all_told = [one.varied() for one in found.contestants[name]]
    varying = {option for told in all_told for option in told if any(o.get(option) != told[option] for o in all_told)}
    return ", ".join(f"{option} {value}" for option, value in setting.varied().items() if option in varying) or "–"


def draw_differences(against: Sequence[Difference], path: Path) -> None:
    """A PNG: each contestant's difference from one, the best on top."""
    ordered = sorted(against, key=lambda one: one.mean)
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(ordered)), layout="constrained")
    axes: Any = figure.subplots()
    for place, one in enumerate(ordered):
        colour = COLOURS[2] if one.significant else COLOURS[0]
        axes.plot([one.low, one.high], [place, place], color=colour, linewidth=2)
        axes.plot([one.mean], [place], "o", color=colour)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(ordered)), [one.first for one in ordered])
    axes.set_xlabel(f"nDCG@10 minus that of {ordered[0].second}: mean over queries, 95 % interval")
    axes.set_title("blue: significant after correction", fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_options(found: Found, path: Path) -> None:
    """A PNG: a panel a contestant, the best of the other options at each temperature, a line for each target."""
    names = [name for name in found.results if found.of_settings(name)]
    figure = Figure(figsize=(9, 0.8 + 2.4 * ((len(names) + 2) // 3)), layout="constrained")
    panels: Any = figure.subplots((len(names) + 2) // 3, 3, sharex=True, sharey=True, squeeze=False)
    flat = panels.flatten()
    for axes, name in zip(flat, names, strict=False):
        lines: dict[str, dict[float, float]] = defaultdict(dict)
        for setting, value in reversed(found.of_settings(name)):  # the best last, so that it stays
            lines[_line(setting)][setting.loss.temperature] = value
        for number, (label, line) in enumerate(sorted(lines.items())):
            temperatures = sorted(line)
            axes.plot(
                temperatures,
                [line[one] for one in temperatures],
                "o-",
                markersize=3,
                color=COLOURS[number % len(COLOURS)],
                label=label,
            )
        axes.axhline(mean(found.zero_shot.values(MAIN).values()), color="black", linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.set_title(name, fontsize=10, loc="left")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    for axes in flat[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("temperature", fontsize=10)
    figure.supylabel("nDCG@10, held-out training queries", fontsize=10)
    figure.savefig(path, dpi=120)


def _line(setting: Setting) -> str:
    if setting.loss.name == "info_nce":
        return "best grade" if setting.positives_from is None else f"grade ≥ {setting.positives_from}"
    if setting.loss.target != "softmax":
        return setting.loss.target
    return f"softmax, {setting.loss.label_temperature:g}"
