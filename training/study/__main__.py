"""The study of losses on a head over frozen embeddings: `python -m training.study`. See the package."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from training.cli import OneLineErrors, add_encoder_options, encoder_from, exit_status
from training.data import read_collection
from training.encoder import DEFAULT_NAME
from training.errors import InputError
from training.report import machine
from training.study.contestants import FILE, read_contestants
from training.study.cross_validation import untrained
from training.study.findings import Found
from training.study.problem import Plan, Problem, check_judgements, description, embedded
from training.study.report import add_report_options, check_against, write
from training.study.store import Store
from training.study.workers import done


def study(options: argparse.Namespace) -> None:
    identical = options.identical_ids == "keep"
    plan = Plan(**{one.name: getattr(options, one.name, identical) for one in fields(Plan)})
    check(plan)
    if options.workers < 1:
        raise InputError(f"--workers must be at least 1, got {options.workers}")
    collection = read_collection(options.data, [options.split])
    check_judgements(collection, options.split)
    highest_grade = collection.qrels[options.split].highest_grade()
    contestants = read_contestants(options.contestants, highest_grade)
    against = check_against(options.against, contestants)
    queries = len(collection.qrels[options.split])
    if queries < plan.folds * plan.validation_folds:
        raise InputError(
            f"{options.data}: {queries} queries are too few for {plan.folds} × {plan.validation_folds} folds"
        )
    encoder = encoder_from(options).to("cuda" if torch.cuda.is_available() else "cpu")
    described = {
        "model": Path(options.model).name if options.model else DEFAULT_NAME,
        **description(collection, options.data, options.split, encoder, plan),
        "contestants": {name: [setting.told() for setting in settings] for name, settings in contestants.items()},
    }
    store = Store(options.output, described)
    problem = Problem(collection, options.split, embedded(encoder, collection, options.split), plan)
    tasks = list(store.missing(range(plan.folds), range(len(contestants))))
    settings = list(contestants.values())
    for (fold, number), found in tqdm(done(problem, settings, tasks, options.workers), total=len(tasks)):
        store.add(fold, number, found)
    results = {
        name: [store.read(fold, number) for fold in range(plan.folds)] for number, name in enumerate(contestants)
    }
    found = Found(contestants, results, untrained(problem, range(queries)))
    data = found.data(described, machine(torch.device("cpu")), against, options.correction)
    print(write(data, options.output))
    print(f"\n{options.output}: report.md, report.json, differences.png, options.png")


def check(plan: Plan) -> None:
    least = {"folds": 2, "validation_folds": 2, "seeds": 1, "epochs": 1, "batch_size": 1, "group_size": 1}
    for name, value in least.items():
        if getattr(plan, name) < value:
            raise InputError(f"--{name.replace('_', '-')} must be at least {value}, got {getattr(plan, name)}")
    if not plan.learning_rate > 0:
        raise InputError(f"--learning-rate must be above 0, got {plan.learning_rate}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = OneLineErrors(prog="training.study", description="losses × seeds, by cross-validation over queries")
    parser.add_argument("--data", type=Path, required=True, help="folder in the BEIR layout, or YAML of sources")
    parser.add_argument("--split", default="train", help="whose queries are dealt into folds (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="new folder, or one with a part of this study")
    parser.add_argument("--contestants", type=Path, default=FILE, help="YAML of losses and their options")
    plan = Plan()
    for name, told in {
        "folds": "parts of the queries, each measured once",
        "validation_folds": "parts of all other folds, for choosing",
        "seeds": "trainings of what was chosen",
        "epochs": "at most",
        "batch_size": "queries a step",
        "group_size": "passages a query, at most",
        "fold_seed": "deals the queries into folds",
        "relevant_grade": "for MAP, MRR and recall",
    }.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=getattr(plan, name), help=f"{told} (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=plan.learning_rate, help="default: %(default)s")
    parser.add_argument("--identical-ids", choices=("drop", "keep"), default="drop", help="see training.evaluate")
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=workers, help="processes (default: a processor each)")
    add_encoder_options(parser)
    add_report_options(parser)
    options = parser.parse_args(arguments)
    return exit_status(lambda: study(options))


if __name__ == "__main__":
    sys.exit(main())
