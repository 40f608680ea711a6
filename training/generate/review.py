"""Reviews generated ranking contexts: what fails which gate, and the rest as a collection to train on.

    python -m training.generate.review FOLDER --out DIR [--drop short,quote,…]

FOLDER holds contexts.jsonl and may hold set_aside.jsonl (see reading.py). DIR then holds the BEIR layout of what is
kept (corpus.jsonl, queries.jsonl, qrels/train.tsv), report.md and report.png. All gates are counted; those that --drop
names also drop what fails them. One pass, in memory that grows by hashes only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from training.cli import OneLineErrors, add_encoder_options, encoder_from, exit_status
from training.encoder import BiEncoder
from training.folders import staged
from training.generate.collection import write_collection
from training.generate.context import RankingContext
from training.generate.gates import one_level, passage_gates, without
from training.generate.order import Scores, in_order, score
from training.generate.reading import count_set_aside, read_contexts
from training.generate.report import write_report
from training.generate.statistics import Statistics

ORDER, ONE_LEVEL = "order", "one-level"
GATES = (*passage_gates(), ORDER, ONE_LEVEL)
DROPPED = tuple(gate for gate in GATES if gate != ORDER)
"""What is dropped unless told. Not for a wrong order: the contexts an encoder gets wrong are those that teach it."""

CHUNK = 64  # contexts embedded together: some 250 passages, enough to sort them into batches of like length


def review(
    contexts: Iterable[RankingContext],
    dropped: Sequence[str],
    encoder: BiEncoder | None,
    statistics: Statistics,
) -> Iterator[RankingContext]:
    """What is kept of the contexts, in their order. Every gate is counted in `statistics`, dropped or not.

    Without an encoder the order of levels is not checked.
    """
    gates = passage_gates()
    for context, scores in _scored(contexts, encoder):
        statistics.add(context, scores)
        everything = frozenset(range(len(context.passages)))
        drop: frozenset[int] = frozenset()
        for name, gate in gates.items():
            failures = gate(context)
            statistics.add_failures(name, failures)
            drop |= failures if name in dropped else frozenset()
        if scores is not None:
            failures = frozenset() if in_order(context, scores) else everything
            statistics.add_failures(ORDER, failures)
            drop |= failures if ORDER in dropped else frozenset()
        kept = without(context, drop)
        ranks_nothing = one_level(kept)
        statistics.add_failures(ONE_LEVEL, (everything - drop) if ranks_nothing else frozenset())
        if kept.passages and not (ranks_nothing and ONE_LEVEL in dropped):
            statistics.add_kept(kept)
            yield kept


def _scored(
    contexts: Iterable[RankingContext], encoder: BiEncoder | None
) -> Iterator[tuple[RankingContext, Scores | None]]:
    remaining = iter(contexts)
    while chunk := list(islice(remaining, CHUNK)):
        scores: Sequence[Scores | None] = [None] * len(chunk)
        if encoder is not None and any(context.passages for context in chunk):
            scores = score(encoder, chunk)
        yield from zip(chunk, scores, strict=True)


def run(options: argparse.Namespace) -> None:
    if options.encoder or ORDER in options.drop:
        encoder = encoder_from(options).to("cuda" if torch.cuda.is_available() else "cpu")
    else:
        encoder = None
    statistics = Statistics(set_aside=count_set_aside(options.folder))
    with staged(options.out) as folder:
        contexts = tqdm(read_contexts(options.folder), desc="reviewing", unit=" queries")
        write_collection(review(contexts, options.drop, encoder, statistics), folder)
        write_report(statistics, options.drop, folder)
    kept = f"{statistics.contexts_kept} of {statistics.contexts} contexts"
    print(f"kept: {kept}, {statistics.passages_kept} of {statistics.passages} passages")
    print(f"collection and report: {options.out}")


def _gates(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(text.split(","))
    for name in names:
        if name not in GATES:
            raise argparse.ArgumentTypeError(f"no gate {name!r}; there are {', '.join(GATES)}, and none")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = OneLineErrors(prog="training.generate.review", description="Gates, report and collection.")
    parser.add_argument("folder", type=Path, help="what the generator wrote: contexts.jsonl, set_aside.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder for the collection; must not exist yet")
    parser.add_argument(
        "--drop", type=_gates, default=DROPPED, help=f"gates whose failures go, of {','.join(GATES)}; or none"
    )
    parser.add_argument(
        "--encoder",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="score the levels, the slowest part by far (default: yes; --drop order needs it)",
    )
    add_encoder_options(parser)
    options = parser.parse_args(arguments)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
