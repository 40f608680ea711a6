"""Several models on several collections: one table, one picture, and which differences are more than luck.

    python -m training.compare --model MiniLM=DIR --model ours=DIR --data DIR --output DIR
    python -m training.compare --model ours=DIR --sets training/evaluation_sets.yaml --only scifact --output DIR

Writes, when all is complete: report.json (means, every query's value, differences), report.md (tables), picture.png,
and a TREC run for each model on each set, runs/SET/MODEL.trec, from which everything can be measured again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure

from training.cli import OneLineErrors, add_pooling_options, exit_status, pooling_from
from training.encoder import BiEncoder
from training.errors import InputError
from training.evaluate import add_search_options, retrieve, search_from
from training.evaluation_sets import EvaluationSet, read_sets
from training.folders import staged
from training.measures import MEASURES, RELEVANT_GRADE, Quality, measure
from training.report import COLOURS, machine
from training.runs import rankings, write_run
from training.significance import Difference, add_significance_options, differences, named
from training.significance import table as significance_table
from training.tables import markdown_table

REPORT_FILE, TABLES_FILE, PICTURE_FILE, RUNS_FOLDER = "report.json", "report.md", "picture.png", "runs"

Results = Mapping[str, Mapping[str, Quality]]
"""set → model → its quality"""


def table(results: Results, measure_name: str) -> str:
    """Models down, sets across, and the mean over the sets where there are several; the best of each in bold."""
    sets = list(results)
    columns = {name: [q.mean(measure_name) for q in models.values()] for name, models in results.items()}
    if len(sets) > 1:
        columns["mean"] = [mean(values) for values in zip(*columns.values(), strict=True)]
    cells = [
        [f"**{value:.3f}**" if value == max(column) else f"{value:.3f}" for value in column]
        for column in columns.values()
    ]
    models = list(results[sets[0]])
    return markdown_table([measure_name, *columns], list(zip(models, *cells, strict=True)), words=(0,))


def measures_table(models: Mapping[str, Quality]) -> str:
    """Every measure of every model on one set."""
    rows = [[one, *(f"{quality.mean(one):.3f}" for quality in models.values())] for one in MEASURES]
    return markdown_table(["", *models], rows, words=(0,))


def draw(results: Results, measure_name: str, path: Path) -> None:
    """A PNG: a group of bars for each set, a bar for each model, whiskers of one standard error over the queries."""
    models = list(next(iter(results.values())))
    width = 0.8 / len(models)
    figure = Figure(figsize=(max(6.0, 1.2 + 0.5 * len(results) * len(models)), 4.5), layout="constrained")
    axes: Any = figure.subplots()
    for number, model in enumerate(models):
        values = [list(of_set[model].values(measure_name).values()) for of_set in results.values()]
        axes.bar(
            [place + (number - (len(models) - 1) / 2) * width for place in range(len(results))],
            [mean(of_set) for of_set in values],
            width * 0.95,
            yerr=[
                float(torch.tensor(of_set).std()) / len(of_set) ** 0.5 if len(of_set) > 1 else 0 for of_set in values
            ],
            capsize=3,
            color=COLOURS[number % len(COLOURS)],
            hatch="//" * (number // len(COLOURS)),
            label=model,
        )
    axes.set_xticks(range(len(results)), list(results), rotation=0 if len(results) < 6 else 45)
    axes.set_ylabel(measure_name)
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_title("whiskers: ± 1 standard error over the queries", fontsize=10, loc="left")
    figure.legend(fontsize=9, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = OneLineErrors(prog="training.compare", description="several models, one table")
    parser.add_argument(
        "--model", action="append", required=True, help="folder or hub name, or NAME=FOLDER; repeatable"
    )
    parser.add_argument("--data", action="append", default=[], help="folder, YAML or hub name, or NAME=…; repeatable")
    parser.add_argument("--sets", type=Path, default=None, help="a YAML of evaluation sets, see evaluation_sets.py")
    parser.add_argument("--only", action="append", default=[], help="of --sets, the one of this name; repeatable")
    parser.add_argument("--output", type=Path, required=True, help="folder for the result; must not exist yet")
    parser.add_argument("--split", default="test", help="of --data (default: %(default)s)")
    grade = "of --data; --sets has its own (default: %(default)s)"
    parser.add_argument("--relevant-grade", type=int, default=RELEVANT_GRADE, help=grade)
    add_pooling_options(parser)
    add_search_options(parser)
    add_significance_options(parser)
    options = parser.parse_args(arguments)
    if not options.data and options.sets is None:
        parser.error("nothing to evaluate on: --data or --sets")
    if options.only and options.sets is None:
        parser.error("--only chooses among --sets")

    def command() -> None:
        models = named(options.model, "--model")
        if options.against is not None and options.against not in models:
            raise InputError(f"--against: no model is called {options.against!r}; there are {', '.join(models)}")
        sets = [
            EvaluationSet(name, data, options.split, options.relevant_grade)
            for name, data in named(options.data, "--data").items()
        ]
        sets += read_sets(options.sets, options.only) if options.sets is not None else []
        for place, one in enumerate(sets):
            if one.name in [other.name for other in sets[:place]]:
                raise InputError(f"--sets and --data: two are called {one.name!r}: give names, NAME=DATA")
        search = search_from(options)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with staged(options.output) as folder:
            # All before the first is used: that takes hours.
            collections = [one.read() for one in sets]
            for source in models.values():
                BiEncoder.from_pretrained(source, *pooling_from(options))
            results: dict[str, dict[str, Quality]] = {one.name: {} for one in sets}
            for one, collection in zip(sets, collections, strict=True):
                qrels = collection.qrels[one.split]
                (folder / RUNS_FOLDER / one.name).mkdir(parents=True)
                for name, source in models.items():
                    encoder = BiEncoder.from_pretrained(source, *pooling_from(options)).to(device)
                    bar = f"{name} on {one.name}"
                    run = retrieve(encoder, collection, list(qrels), options.batch_size, bar, search)
                    write_run(folder / RUNS_FOLDER / one.name / f"{name}.trec", run, name)
                    results[one.name][name] = measure(rankings(run), qrels, one.relevant_grade)
            tested = _tested(results, options.measure, options.against, options.correction) if len(models) > 1 else {}
            text = _tables(results, tested, options.measure)
            (folder / TABLES_FILE).write_text(text + "\n", encoding="utf-8")
            report = _report(results, tested, options.measure, device) | {"models": models}
            (folder / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            draw(results, options.measure, folder / PICTURE_FILE)
        print(text)
        print(f"\nreport: {options.output / REPORT_FILE}\npicture: {options.output / PICTURE_FILE}")

    return exit_status(command)


def _tested(results: Results, measure_name: str, against: str | None, correction: str) -> dict[str, list[Difference]]:
    return {
        name: differences({model: q.values(measure_name) for model, q in models.items()}, against, correction)
        for name, models in results.items()
    }


def _tables(results: Results, tested: Mapping[str, Sequence[Difference]], measure_name: str) -> str:
    parts = [table(results, measure_name)]
    for name, models in results.items():
        queries = len(next(iter(models.values())).of_query)
        parts += [f"## {name} ({queries} queries)", measures_table(models)]
        parts += [significance_table(tested[name])] if name in tested else []
    return "\n\n".join(parts)


def _report(
    results: Results, tested: Mapping[str, Sequence[Difference]], measure_name: str, device: torch.device
) -> dict[str, Any]:
    return {
        "machine": machine(device),
        "measure": measure_name,
        "means": {name: {model: q.means() for model, q in models.items()} for name, models in results.items()},
        "of_query": {
            name: {model: q.values(measure_name) for model, q in models.items()} for name, models in results.items()
        },
        "differences": {name: [asdict(one) for one in found] for name, found in tested.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
