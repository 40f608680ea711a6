"""The same comparison with the encoder itself trained, each loss with what its head chose on the same fold.

    python -m training.study.encoder --chosen-by DIR --data DATA --output DIR2 --only InfoNCE --only KL

A run takes minutes where the head's takes a second, so nothing is chosen here: settings are those of the study in DIR,
made on the same training queries; epochs and learning rate are one for all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from training.cli import OneLineErrors, add_encoder_options, encoder_from, exit_status
from training.data import read_collection
from training.encoder import BiEncoder
from training.errors import InputError
from training.evaluate import Search, retrieve
from training.groups import GradedGroups
from training.measures import Quality, measure
from training.report import machine
from training.runs import rankings
from training.study.contestants import Setting
from training.study.cross_validation import Result, qrels_at, untrained
from training.study.findings import Found
from training.study.problem import Plan, Problem, check_judgements, description, embedded
from training.study.report import add_report_options, check_against, write
from training.study.store import Store, read_study
from training.trainer import fit, training_arguments


@dataclass(frozen=True)
class Recipe:
    """How the encoder is trained, whatever the loss."""

    epochs: int
    learning_rate: float
    batch_size: int
    group_size: int
    bf16: bool


def study(options: argparse.Namespace) -> None:
    for name in ("seeds", "epochs", "batch_size", "group_size"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    chosen_by = read_study(options.chosen_by)
    plan = Plan(**chosen_by["plan"])
    contestants = {name: [Setting.restored(one) for one in told] for name, told in chosen_by["contestants"].items()}
    numbers = {name: number for number, name in enumerate(contestants)}
    names = options.only or list(contestants)
    if unknown := [name for name in names if name not in contestants]:
        raise InputError(f"--only {unknown[0]}: no contestant; there are {', '.join(contestants)}")
    against = check_against(options.against, names)
    folds = sorted(set(options.fold)) or list(range(plan.folds))
    if outside := [fold for fold in folds if not 0 <= fold < plan.folds]:
        raise InputError(f"--fold {outside[0]}: {options.chosen_by} has folds 0 to {plan.folds - 1}")
    collection = read_collection(options.data, [chosen_by["split"]])
    check_judgements(collection, chosen_by["split"])
    encoder = encoder_from(options)
    described = description(collection, options.data, chosen_by["split"], encoder, plan)
    # The encoder may be another, or cut texts elsewhere: what matters is who was held out.
    if other := [name for name, value in described.items() if name != "encoder" and chosen_by[name] != value]:
        raise InputError(
            f"{options.chosen_by}: has chosen with another {other[0]}: its settings may have seen these queries"
        )
    recipe = Recipe(options.epochs, options.learning_rate, options.batch_size, options.group_size, options.bf16)
    told = {
        "chosen by": described,
        "recipe": vars(recipe),
        "seeds": options.seeds,
        "folds": folds,
        "contestants": names,
    }
    store = Store(options.output, told)
    head_study = Store(options.chosen_by, chosen_by)
    problem = Problem(collection, chosen_by["split"], embedded(encoder, collection, chosen_by["split"]), plan)
    for fold, number in tqdm(list(store.missing(folds, [numbers[name] for name in names]))):
        chosen = head_study.read(fold, number).chosen
        setting = list(contestants.values())[number][chosen]
        qualities = [
            trained(problem, setting, fold, seed, recipe, encoder_from(options)) for seed in range(1, options.seeds + 1)
        ]
        store.add(fold, number, Result(chosen, recipe.epochs, [], qualities))
    results = {name: [store.read(fold, numbers[name]) for fold in folds] for name in names}
    places = [place for fold in folds for place in plan.fold(fold, len(problem.frozen.queries))[0]]
    found = Found(contestants, results, untrained(problem, places))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(write(found.data(told, machine(device), against, options.correction), options.output))


def trained(problem: Problem, setting: Setting, fold: int, seed: int, recipe: Recipe, encoder: BiEncoder) -> Quality:
    """Train the encoder on all folds but one, and measure it on that."""
    measured, training = problem.plan.fold(fold, len(problem.frozen.queries))
    groups = GradedGroups(problem.collection, problem.split, recipe.group_size, seed, training)
    with TemporaryDirectory() as folder:
        args = training_arguments(
            Path(folder),
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            per_device_train_batch_size=recipe.batch_size,
            bf16=recipe.bf16,
            use_cpu=not torch.cuda.is_available(),  # Hugging Face refuses bf16 on a CPU that it is not told to use
            seed=seed,
        )
        fit(encoder, groups, setting.build(problem.highest_grade), args, in_batch=setting.in_batch)
    qrels = qrels_at(problem, measured)
    run = retrieve(encoder, problem.collection, list(qrels), search=Search(identical=problem.plan.identical))
    return measure(rankings(run), qrels, problem.plan.relevant_grade)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = OneLineErrors(prog="training.study.encoder", description="the study, with the encoder itself trained")
    parser.add_argument("--chosen-by", type=Path, required=True, help="the folder of a study of the head")
    parser.add_argument("--data", type=Path, required=True, help="the collection of that study")
    parser.add_argument("--output", type=Path, required=True, help="new folder, or one with a part of this study")
    parser.add_argument("--only", action="append", default=[], help="contestant; repeatable (default: all)")
    parser.add_argument("--fold", type=int, action="append", default=[], help="repeatable (default: all)")
    parser.add_argument("--seeds", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, help="queries a step (default: %(default)s)")
    parser.add_argument("--group-size", type=int, default=4, help="passages a query, at most (default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16, scores and loss in float32")
    add_encoder_options(parser)
    add_report_options(parser)
    options = parser.parse_args(arguments)
    return exit_status(lambda: study(options))


if __name__ == "__main__":
    sys.exit(main())
