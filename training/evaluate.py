"""Retrieval quality on a full corpus, as trec_eval measures it: `measures.py` says what is measured.

    python -m training.evaluate --data DIR --model DIR
    python -m training.evaluate --data mteb/scifact --relevant-grade 1 --model DIR --run out.trec

Exact search over the whole corpus by inner product. A passage that has its query's own id is left out, as in BEIR.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.cli import OneLineErrors, add_encoder_options, encoder_from, exit_status
from training.data import Collection
from training.embedding_cache import embeddings
from training.encoder import BiEncoder
from training.evaluation_sets import check_relevant, open_collection
from training.folders import staged_file
from training.index import cache_folder
from training.measures import DEPTH, RELEVANT_GRADE, Quality, check_relevant_grade, measure
from training.runs import Run, judged_identical, rankings, read_run, without_identical, write_run
from training.search import ENGINES, top_k

__all__ = ["RELEVANT_GRADE", "Quality", "Search", "evaluate", "main", "measure", "retrieve"]


@dataclass(frozen=True)
class Search:
    """How a corpus is searched.

    Args:
        depth: passages a query.
        identical: leave passages in that have their query's own id.
        engine: of `search.ENGINES`.
        cache: the folder where passages' embeddings are kept; None keeps none, as in training, whose every model is
            measured once.
    """

    depth: int = DEPTH
    identical: bool = False
    engine: str = "torch"
    cache: Path | None = None


SEARCH = Search()


def evaluate(
    encoder: BiEncoder,
    collection: Collection,
    split: str,
    relevant_grade: int = RELEVANT_GRADE,
    batch_size: int = 32,
    progress: str | None = None,
    search: Search = SEARCH,
) -> Quality:
    """Rank the whole corpus for each query of the split by inner product, and measure.

    `progress` names a progress bar; None shows none.

    Raises:
        InputError: relevant_grade below 1; and `retrieve`'s.
    """
    check_relevant_grade(relevant_grade)  # before the corpus is embedded, which may take hours
    qrels = collection.qrels[split]
    run = retrieve(encoder, collection, list(qrels), batch_size, progress, search)
    return measure(rankings(run), qrels, relevant_grade)


def retrieve(
    encoder: BiEncoder,
    collection: Collection,
    queries: Sequence[str],
    batch_size: int = 32,
    progress: str | None = None,
    search: Search = SEARCH,
) -> Run:
    """The `search.depth` best passages of each query.

    Raises:
        InputError: embeddings that are not finite, a cache that cannot be used, FAISS asked for and not installed.
    """
    device = next(encoder.parameters()).device
    passages = embeddings(encoder, collection.corpus.values(), batch_size, progress, search.cache)  # [N, d]
    asked = encoder.encode([collection.queries[query] for query in queries], batch_size)  # [Q, d]
    return find(asked, passages, queries, list(collection.corpus), search, device)


def find(
    asked: Tensor,  # [Q, d]
    passages: Tensor,  # [N, d]
    queries: Sequence[str],  # ids
    corpus: Sequence[str],  # ids
    search: Search = SEARCH,
    device: torch.device | str = "cpu",
) -> Run:
    """The `search.depth` best passages of each query, from embeddings.

    Raises:
        InputError: embeddings that are not finite or not of one dimension, FAISS asked for and not installed.
    """
    # One more, where one may be left out.
    scores, positions = top_k(asked, passages, search.depth + (not search.identical), device, search.engine)
    run: Run = {
        query: dict(zip([corpus[position] for position in row], of_row, strict=True))
        for query, row, of_row in zip(queries, positions.tolist(), scores.tolist(), strict=True)
    }
    return run if search.identical else without_identical(run, search.depth)


def add_search_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=int, default=32, help="texts embedded at once (default: %(default)s)")
    parser.add_argument("--search", choices=ENGINES, default="torch", help="both are exact (default: %(default)s)")
    identical = "passages that have their query's own id: drop them, as BEIR does, or keep (default: %(default)s)"
    parser.add_argument("--identical-ids", choices=("drop", "keep"), default="drop", help=identical)
    cached = "keep the passages' embeddings and use what was kept, see WASSRANK_CACHE (default: yes)"
    parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True, help=cached)


def search_from(options: argparse.Namespace, depth: int = DEPTH) -> Search:
    """What the options of `add_search_options` say."""
    return Search(
        depth=depth,
        identical=options.identical_ids == "keep",
        engine=options.search,
        cache=cache_folder() if options.cache else None,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: prints the measures as one JSON object. Returns the exit status."""
    parser = OneLineErrors(
        prog="training.evaluate", description="nDCG, MAP, MRR, recall and precision on a full corpus"
    )
    parser.add_argument("--data", required=True, help="folder in the BEIR layout, YAML of sources, or hub name")
    add_encoder_options(parser)
    add_search_options(parser)
    parser.add_argument("--split", default="test", help="which qrels file (default: %(default)s)")
    parser.add_argument("--relevant-grade", type=int, default=RELEVANT_GRADE, help="default: %(default)s")
    parser.add_argument("--run", type=Path, default=None, help="where to write what was found, as a TREC run")
    parser.add_argument("--from-run", type=Path, default=None, help="measure this TREC run, of whatever system")
    options = parser.parse_args(arguments)
    if options.from_run is not None and (options.model is not None or options.run is not None):
        parser.error("--from-run is measured as it is: without --model and --run")

    def command() -> None:
        check_relevant_grade(options.relevant_grade)
        collection = open_collection(options.data, options.split)
        check_relevant(collection, options.split, options.relevant_grade, options.data)
        qrels = collection.qrels[options.split]
        search = search_from(options)
        if not search.identical and (judged := judged_identical(qrels)):
            print(
                f"warning: {judged} queries have a judged passage of their own id, which is left out as in BEIR: if "
                f"equal ids are chance here, say --identical-ids keep",
                file=sys.stderr,
            )
        # Before the corpus is embedded: that the run cannot be written is known at once.
        with staged_file(options.run) if options.run is not None else nullcontext() as file:
            if options.from_run is not None:
                run: Run = read_run(options.from_run)
                run = run if search.identical else without_identical(run, search.depth)
            else:
                encoder = encoder_from(options).to("cuda" if torch.cuda.is_available() else "cpu")
                bar = "embedding the corpus"
                run = retrieve(encoder, collection, list(qrels), options.batch_size, bar, search)
            quality = measure(rankings(run), qrels, options.relevant_grade)
            if file is not None:
                write_run(file, run, "_".join(Path(options.model or "minilm").name.split()))
        print(json.dumps({"split": options.split, "queries": len(quality.of_query)} | quality.means()))

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
