"""The command that trains.

    python -m training.train --data DATA --output DIR --loss grade_wasserstein [HF training arguments]

DATA is a folder in the BEIR layout or a YAML file of sources (see data.py). DIR then holds the model (for AutoModel,
AutoTokenizer and BiEncoder.from_pretrained) and metrics.json: the quality before and after, the loss curve, and what
was run. It appears when all of it is there, or not at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import HfArgumentParser, TrainingArguments

from training.cli import OneLineErrors, add_encoder_options, encoder_from, exit_status
from training.data import read_collection
from training.errors import InputError
from training.evaluate import RELEVANT_GRADE, evaluate
from training.folders import staged
from training.groups import GradedGroups
from training.losses import LOSSES, LossOptions, backend_name, build_loss, wants_all_scores
from training.trainer import DEFAULTS, GATHERINGS, LossBar, fit

METRICS_FILE = "metrics.json"
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
    real_grades = collection.qrels["train"].real
    loss = build_loss(loss_options, collection.highest_grade(), real_grades, options.from_embeddings)
    encoder = encoder_from(options).to(args.device)
    group_size = next(size for size in (options.group_size, collection.group_size, GROUP_SIZE) if size is not None)
    groups = GradedGroups(collection, "train", group_size, args.seed)

    before = evaluate(encoder, collection, "test", options.relevant_grade, progress="evaluating before")
    run = fit(
        encoder,
        groups,
        loss,
        args,
        in_batch=wants_all_scores(loss_options),
        callbacks=[LossBar(options.loss)],
        encode_chunk_size=options.encode_chunk_size,
        from_embeddings=options.from_embeddings,
        gather=options.gather,
    )
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


def huggingface_arguments(remaining: Sequence[str]) -> TrainingArguments:
    """HF TrainingArguments from a command line, with this trainer's defaults.

    Raises:
        InputError: a value HF refuses, or checkpoints without a place of their own.
    """
    parser = _HfParser(TrainingArguments, prog="training.train")
    parser.set_defaults(**DEFAULTS, output_dir="")
    try:
        args: TrainingArguments
        args, unknown = parser.parse_args_into_dataclasses(list(remaining), return_remaining_strings=True)
    except ValueError as error:
        raise InputError(f"training arguments: {error}") from error
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if args.save_strategy != "no" and not args.output_dir:
        raise InputError("--save_strategy needs --output_dir, a folder of its own that keeps HF's checkpoints")
    return args


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
    parser.add_argument("--data", type=Path, required=True, help="folder in the BEIR layout or YAML of sources")
    parser.add_argument("--output", type=Path, required=True, help="folder for model and metrics; must not exist yet")
    add_encoder_options(parser)
    group_size = f"passages a query, drawn evenly over its grades; None: as the YAML has it, else {GROUP_SIZE}"
    parser.add_argument("--group-size", type=int, default=None, help=group_size)
    parser.add_argument("--relevant-grade", type=int, default=RELEVANT_GRADE, help="relevant from here, MRR and recall")
    parser.add_argument("--loss", choices=LOSSES, default=loss.name, help="which loss")
    parser.add_argument("--p", type=float, default=loss.p, help="order of the Wasserstein distance")
    parser.add_argument("--temperature", type=float, default=loss.temperature, help="divides the scores")
    parser.add_argument("--target", default=loss.target, help="what grades ask for: softmax, linear, exp2")
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
    parser.add_argument("--from-embeddings", action="store_true", help="never store the scores")
    gather = "in-batch passages of all processes: gathered, or sent round; with --from-embeddings"
    parser.add_argument("--gather", choices=tuple(GATHERINGS), default="none", help=gather)
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
    options, remaining = build_parser().parse_known_args(arguments)

    def command() -> None:
        args = huggingface_arguments(remaining)
        # Under torchrun every process trains and evaluates, and one writes.
        writes = args.process_index == 0
        folder: AbstractContextManager[str | Path] = staged(options.output) if writes else TemporaryDirectory()
        with folder as path:
            args.output_dir = args.output_dir or str(path)
            metrics = train(options, args, Path(path))
        if writes:
            print(json.dumps({name: metrics[name] for name in ("backend", "before", "after")}))
            print(f"model and metrics: {options.output}")

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
