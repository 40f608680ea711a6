"""The command that trains.

    python -m training.train --data DATA --output DIR --loss grade_wasserstein [HF training arguments]

    python -m training.train --recipe RECIPE [--small] --output DIR [whatever is to differ from the recipe]

DATA is a folder in the BEIR layout or a YAML file of sources (see data.py), RECIPE a YAML file of options (recipe.py).
DIR then holds the model (for AutoModel, AutoTokenizer and BiEncoder.from_pretrained), recipe.yaml: all options of this
run, and metrics.json: the quality before and after, the loss curve, and what was run. It appears when all of it is
there, or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml  # type: ignore[import-untyped]
from transformers import EarlyStoppingCallback, HfArgumentParser, TrainerCallback, TrainingArguments, set_seed
from transformers.integrations import get_available_reporting_integrations

from training.checkpoints import LAST
from training.cli import OneLineErrors, add_encoder_options, encoder_from, exit_status
from training.data import read_collection
from training.errors import InputError
from training.evaluate import RELEVANT_GRADE, evaluate
from training.folders import staged
from training.groups import GradedGroups
from training.lora import low_rank
from training.losses import LOSSES, LossOptions, backend_name, build_loss, check_grades, wants_all_scores
from training.recipe import FLAG_ONLY, read_recipe
from training.sharded import loaded_whole
from training.trainer import DEFAULTS, EARLY_STOPPING, GATHERINGS, GradedTrainer, LossBar, leave_processes

METRICS_FILE, RECIPE_FILE = "metrics.json", "recipe.yaml"
GROUP_SIZE = 4


def train(options: argparse.Namespace, args: TrainingArguments, folder: Path) -> dict[str, Any]:
    """Train and evaluate as told, save into `folder`, and return what went into its metrics.json."""
    collection = read_collection(options.data, ["train", "test"])
    loss_options = LossOptions(
        name=options.loss,
        p=options.p,
        temperature=options.temperature,
        label_temperature=options.label_temperature,
        target=options.target,
        in_batch=options.in_batch,
        wasserstein=options.wasserstein,
        info_nce=options.info_nce,
        kl=options.kl,
        backend=options.backend,
    )
    judged = collection.qrels["train"]
    check_grades(loss_options, judged.highest(), judged.real)
    loss = build_loss(loss_options, judged.highest_grade(), judged.real, options.from_embeddings)
    with loaded_whole(args):
        encoder = encoder_from(options).to(args.device)
    group_size = next(size for size in (options.group_size, collection.group_size, GROUP_SIZE) if size is not None)
    groups = GradedGroups(collection, "train", group_size, args.seed)

    if options.early_stopping is not None and options.early_stopping < 1:
        raise InputError(f"--early-stopping must be at least 1 evaluation, got {options.early_stopping}")
    dev = read_collection(options.data, ["dev"]) if args.eval_strategy != "no" else None

    def measure() -> dict[str, float]:
        assert dev is not None
        return evaluate(encoder, dev, "dev", options.relevant_grade).means()

    callbacks: list[TrainerCallback] = [LossBar(options.loss)]
    if options.early_stopping is not None:
        callbacks.append(EarlyStoppingCallback(options.early_stopping))

    set_seed(args.seed)  # Hugging Face's Trainer does so too, but low-rank changes begin at random before there is one
    with low_rank(encoder, options.lora_rank, options.lora_alpha, options.lora_targets):
        trainer = GradedTrainer(
            encoder,
            loss,
            args,
            groups,
            callbacks,
            in_batch=wants_all_scores(loss_options),
            encode_chunk_size=options.encode_chunk_size,
            from_embeddings=options.from_embeddings,
            gather=options.gather,
            measure=None if dev is None else measure,
        )
        # After everything that may be refused: it may take hours.
        before = evaluate(encoder, collection, "test", options.relevant_grade, progress="evaluating before")
        run = trainer.run()
    after = evaluate(encoder, collection, "test", options.relevant_grade, progress="evaluating after")

    metrics = {
        "before": before.means(),
        "after": after.means(),
        "loss": asdict(loss_options),
        "backend": backend_name(loss_options, args.device),
        "run": asdict(run),
    }
    encoder.save_pretrained(folder)
    (folder / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


class _HfParser(HfArgumentParser):  # type: ignore[misc]  # mypy does not follow transformers
    error = OneLineErrors.error


NO_RECIPE = ("output", "recipe", "small", "output_dir", "resume_from_checkpoint", FLAG_ONLY)
"""Options that say where this run was and what it was allowed, not what it was."""
FILES = ("data", "model", "deepspeed", "fsdp_config")
"""Options that name a file or folder, which a saved recipe is to find from anywhere."""
TOKENS = ("hub_token", "push_to_hub_token")


def huggingface_arguments(
    remaining: Sequence[str], early_stopping: bool = False
) -> tuple[TrainingArguments, dict[str, Any]]:
    """HF TrainingArguments from a command line, with this trainer's defaults; and the same for a recipe: those that
    Hugging Face does not choose by itself.

    Raises:
        InputError: a value HF refuses, or checkpoints without a place of their own.
    """
    parser = _HfParser(TrainingArguments, prog="training.train", allow_abbrev=False)
    own = DEFAULTS | (EARLY_STOPPING if early_stopping else {})
    parser.set_defaults(**own, output_dir="")
    namespace, unknown = parser.parse_known_args(list(remaining))
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    asked, defaults = vars(namespace), _defaults()
    chosen = {name: value for name, value in asked.items() if name in own or value != defaults[name]}
    for name in TOKENS:
        if asked.get(name) is not None:  # Hugging Face would write it into every checkpoint's training_args.bin
            raise InputError(f"--{name}: a token comes from the environment, HF_TOKEN, and from nowhere else")
    try:
        args: TrainingArguments = parser.parse_dict(asked)[0]
    except ValueError as error:
        raise InputError(f"training arguments: {error}") from error
    for name in args.report_to:
        if name not in get_available_reporting_integrations():
            raise InputError(f"--report_to {name}: not installed here, or unknown to Hugging Face")
    if args.save_strategy != "no" and not args.output_dir:
        asking = "--early-stopping" if early_stopping else "--save_strategy"
        raise InputError(f"{asking} needs --output_dir, a folder of its own that keeps HF's checkpoints")
    if args.resume_from_checkpoint == LAST and not args.output_dir:
        raise InputError(f"--resume_from_checkpoint {LAST} needs --output_dir, where the checkpoints are")
    return args, chosen


def _defaults() -> dict[str, Any]:
    """What Hugging Face chooses, by name."""
    defaults: dict[str, Any] = vars(HfArgumentParser(TrainingArguments).parse_args([]))
    return defaults


def save_recipe(options: argparse.Namespace, chosen: Mapping[str, Any], file: Path) -> None:
    """All options of a run, as a recipe that repeats it."""
    given = {**vars(options), **chosen}
    for name in FILES:
        if isinstance(given.get(name), Path | str) and os.path.exists(given[name]):  # a model may be a hub name
            given[name] = str(Path(given[name]).absolute())
    recipe = {name: value for name, value in given.items() if name not in NO_RECIPE and value is not None}
    file.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")


def command_line(arguments: Sequence[str]) -> list[str]:
    """The arguments, after those of the recipe that they name.

    Raises:
        InputError: the recipe cannot be used.
    """
    parser = OneLineErrors(prog="training.train", add_help=False, allow_abbrev=False)
    _add_recipe(parser)
    options, _ = parser.parse_known_args(arguments)
    if options.recipe is None:
        if options.small:
            raise InputError("--small is what a recipe has for small machines: name one with --recipe")
        return list(arguments)
    return [*read_recipe(options.recipe).arguments(build_parser(), _defaults(), options.small), *arguments]


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default=None, help="YAML file of options, or the name of one in training/recipes")
    parser.add_argument("--small", action="store_true", help="the recipe as it runs on a small machine")


def build_parser() -> argparse.ArgumentParser:
    loss = LossOptions()
    parser = OneLineErrors(
        prog="training.train",
        description="Fine-tune a bi-encoder on graded relevance.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,  # an abbreviation could swallow an argument meant for HF
        epilog="Every other argument is one of Hugging Face's TrainingArguments: --learning_rate, "
        "--max_steps, --bf16, --gradient_accumulation_steps, --seed and so on.",
    )
    _add_recipe(parser)
    parser.add_argument("--data", type=Path, required=True, help="folder in the BEIR layout or YAML of sources")
    parser.add_argument("--output", type=Path, required=True, help="folder for model and metrics; must not exist yet")
    add_encoder_options(parser)
    group_size = f"passages a query, drawn evenly over its grades; None: as the YAML has it, else {GROUP_SIZE}"
    parser.add_argument("--group-size", type=int, default=None, help=group_size)
    parser.add_argument("--relevant-grade", type=int, default=RELEVANT_GRADE, help="relevant from here, MRR and recall")
    parser.add_argument("--loss", choices=LOSSES, default=loss.name, help="which loss")
    parser.add_argument("--p", type=float, default=loss.p, help="order of the Wasserstein distance")
    parser.add_argument("--temperature", type=float, default=loss.temperature, help="divides the scores")
    parser.add_argument(
        "--target",
        default=loss.target,
        help="what grades ask for: linear, exp2, softmax; auto: linear, of real numbers softmax",
    )
    parser.add_argument("--label-temperature", type=float, default=loss.label_temperature, help="for target softmax")
    parser.add_argument(
        "--in-batch",
        type=_grade_or_none,
        default=loss.in_batch,
        help="other queries' passages' grade, or none",
    )
    parser.add_argument("--wasserstein", type=float, default=loss.wasserstein, help="its factor in combined_loss")
    parser.add_argument("--info-nce", type=float, default=loss.info_nce, help="its factor in combined_loss")
    parser.add_argument("--kl", type=float, default=loss.kl, help="its factor in combined_loss")
    chunk = "texts the encoder takes at once, for batches that do not fit; None: the batch"
    parser.add_argument("--encode-chunk-size", type=int, default=None, help=chunk)
    parser.add_argument(
        "--from-embeddings", action=argparse.BooleanOptionalAction, default=False, help="never store the scores"
    )
    gather = "in-batch passages of all processes: gathered, or sent round; with --from-embeddings"
    parser.add_argument("--gather", choices=tuple(GATHERINGS), default="none", help=gather)
    parser.add_argument("--lora-rank", type=int, default=None, help="train changes of this rank; None: all weights")
    parser.add_argument("--lora-alpha", type=float, default=16.0, help="these are multiplied by alpha / rank")
    parser.add_argument("--lora-targets", nargs="+", default=None, help="layers that change; None: every linear one")
    patience = "stop after so many evaluations without a better nDCG@10 on the split dev; keep the best"
    parser.add_argument("--early-stopping", type=int, default=None, metavar="N", help=patience)
    parser.add_argument("--backend", default=loss.backend, help="of wassrank: auto, native, triton, torch")
    return parser


def _grade_or_none(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a grade or 'none', got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: trains, prints the quality before and after. Returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments

    def command() -> None:
        options, remaining = build_parser().parse_known_args(command_line(given))
        args, chosen = huggingface_arguments(remaining, options.early_stopping is not None)
        # Under torchrun every process trains and evaluates, and one writes.
        writes = args.process_index == 0
        folder: AbstractContextManager[str | Path] = staged(options.output) if writes else TemporaryDirectory()
        with folder as path:
            args.output_dir = args.output_dir or str(path)
            metrics = train(options, args, Path(path))
            save_recipe(options, chosen, Path(path) / RECIPE_FILE)
        if writes:
            print(json.dumps({name: metrics[name] for name in ("backend", "before", "after")}))
            print(f"model, metrics and recipe: {options.output}")

    try:
        return exit_status(command)
    finally:
        leave_processes()


if __name__ == "__main__":
    sys.exit(main())
