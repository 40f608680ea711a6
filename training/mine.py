"""Hard negatives: passages that a search ranks high and nobody has judged, written as qrels for the trainer.

    python -m training.mine --data DIR --output DIR/mined/train.tsv                      # BM25
    python -m training.mine --data DIR --output DIR/mined/train.tsv --engine dense --model DIR

For each query of the split the `--depth` best passages of the corpus, without those that are judged for it (so without
its positives) and the one of its own id. What an encoder scores almost as high as the query's best positive is taken
for a positive that nobody has judged, and left out: from (1 − margin) × that score on. Of what is left, the first
`--negatives` are written with grade `--grade`. A source of the YAML that training reads names the file as its qrels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from training import bm25
from training.cli import OneLineErrors, add_encoder_options, encoder_from, exit_status
from training.data import Collection, Qrels, read_collection
from training.embedding_cache import embeddings
from training.encoder import BiEncoder
from training.errors import InputError
from training.evaluate import add_search_options, retrieve, search_from
from training.folders import staged_file
from training.judgements import HEADER
from training.measures import RELEVANT_GRADE, check_relevant_grade
from training.runs import Run, ranking, without_identical, write_run

ENGINES = ("auto", *bm25.ENGINES, "dense")
MARGIN = 0.05  # NV-Retriever's: of the rules it compares, 95 % of the positive's score was best


@dataclass
class Counts:
    """What became of the passages that were found."""

    queries: int = 0
    queries_without: int = 0  # that have no negative left
    found: int = 0
    judged: int = 0
    like_a_positive: int = 0
    written: int = 0


def mine(
    run: Run,
    qrels: Qrels,
    negatives: int,
    similarities: Mapping[str, Mapping[str, float]] | None = None,
    relevant_grade: int = RELEVANT_GRADE,
    margin: float = MARGIN,
) -> tuple[dict[str, list[str]], Counts]:
    """query id → its first `negatives` passages of `run` that are neither judged nor like a positive, and the counts.

    Args:
        similarities: query → passage → an encoder's score, of everything found and of all positives; None: nothing is
            taken for a positive.
    """
    mined: dict[str, list[str]] = {}
    counts = Counts(queries=len(qrels))
    for query in qrels:
        judged = qrels[query]
        ranked = ranking(run.get(query, {}))
        unjudged = [passage for passage in ranked if passage not in judged]
        counts.found += len(ranked)
        counts.judged += len(ranked) - len(unjudged)
        unlike = unjudged
        positives = [passage for passage, grade in judged.items() if grade >= relevant_grade]
        if similarities is not None and positives:
            scores = similarities[query]
            best = max(scores[passage] for passage in positives)
            limit = best - margin * abs(best)
            unlike = [passage for passage in unjudged if scores[passage] < limit]
            counts.like_a_positive += len(unjudged) - len(unlike)
        if unlike:
            mined[query] = unlike[:negatives]
            counts.written += len(mined[query])
        else:
            counts.queries_without += 1
    return mined, counts


def similarities_of(
    encoder: BiEncoder,
    collection: Collection,
    wanted: Mapping[str, Iterable[str]],
    batch_size: int = 32,
    progress: str | None = None,
) -> dict[str, dict[str, float]]:
    """query → passage → the encoder's score, of the passages wanted for each query; no others are embedded."""
    listed = {query: list(passages) for query, passages in wanted.items()}
    passages = sorted({passage for of_query in listed.values() for passage in of_query})
    place = {passage: position for position, passage in enumerate(passages)}
    embedded = embeddings(encoder, [collection.corpus[passage] for passage in passages], batch_size, progress)
    asked = encoder.encode([collection.queries[query] for query in listed], batch_size)
    return {
        query: dict(zip(of_query, (embedded[[place[one] for one in of_query]] @ vector).tolist(), strict=True))
        for (query, of_query), vector in zip(listed.items(), asked, strict=True)
    }


def find(engine: str, collection: Collection, queries: Sequence[str], depth: int) -> Run:
    """What BM25 finds: "lucene", "bm25s", or "auto", which is Lucene if it is installed and says so if it is not.

    Raises:
        InputError: the engine is not installed.
    """
    if engine == "auto":
        try:
            bm25.java()
            engine = "lucene"
        except bm25.NoLuceneError as error:
            print(f"note: BM25 by bm25s, since {error}", file=sys.stderr)
            engine = "bm25s"
    ids = list(collection.corpus)
    hits = bm25.bm25(collection.corpus.values(), [collection.queries[query] for query in queries], depth, engine)
    return {
        query: {ids[position]: score for position, score in of_query}
        for query, of_query in zip(queries, hits, strict=True)
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: writes the qrels, prints the counts as JSON. Returns the exit status."""
    parser = OneLineErrors(prog="training.mine", description="hard negatives, by BM25 or by an encoder")
    parser.add_argument("--data", type=Path, required=True, help="folder in the BEIR layout or YAML of sources")
    parser.add_argument("--output", type=Path, required=True, help="the qrels file; must not exist yet")
    parser.add_argument("--split", default="train", help="whose queries (default: %(default)s)")
    engine = "BM25 by Lucene or bm25s (auto: by Lucene where it is installed), or --model's embeddings (default: auto)"
    parser.add_argument("--engine", choices=ENGINES, default="auto", help=engine)
    parser.add_argument("--depth", type=int, default=100, help="passages searched for a query (default: %(default)s)")
    parser.add_argument("--negatives", type=int, default=30, help="at most this many a query (default: %(default)s)")
    parser.add_argument("--grade", type=int, default=0, help="that they are given (default: %(default)s)")
    parser.add_argument(
        "--relevant-grade", type=int, default=RELEVANT_GRADE, help="of positives (default: %(default)s)"
    )
    margin = "leave out what --model scores from (1 - MARGIN) x the best positive's score on; none: leave out nothing"
    parser.add_argument("--margin", type=_margin, default=MARGIN, help=f"{margin} (default: %(default)s)")
    parser.add_argument("--run", type=Path, default=None, help="where to write all that was found, as a TREC run")
    add_encoder_options(parser)
    add_search_options(parser)
    options = parser.parse_args(arguments)
    for name, least in (("depth", 1), ("negatives", 1), ("grade", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(options, name)}")
    return exit_status(lambda: _command(options))


def _command(options: argparse.Namespace) -> None:
    check_relevant_grade(options.relevant_grade)
    collection = read_collection(options.data, [options.split])
    judgements = collection.qrels[options.split]
    if len(judgements.corpora) > 1:
        raise InputError(f"{options.data}: the sources of {options.split!r} have several corpora: mine from one")
    if judgements.highest_grade() < options.relevant_grade and options.margin is not None and not judgements.real:
        highest = int(judgements.highest_grade())
        raise InputError(f"no passage has the relevant grade {options.relevant_grade}: the highest is {highest}")
    queries = list(judgements)
    dense = options.engine == "dense"
    encoder = None
    if dense or options.margin is not None:
        encoder = encoder_from(options).to("cuda" if torch.cuda.is_available() else "cpu")
    with (
        staged_file(options.output) as file,
        staged_file(options.run) if options.run is not None else nullcontext() as run_file,
    ):
        search = search_from(options, options.depth)
        if dense:
            assert encoder is not None
            run = retrieve(encoder, collection, queries, options.batch_size, "embedding the corpus", search)
        else:
            run = find(options.engine, collection, queries, options.depth + (not search.identical))
            run = run if search.identical else without_identical(run, options.depth)
        similarities = None
        if encoder is not None and options.margin is not None:
            bar = "looking for unjudged positives"
            # A dense run's scores are this encoder's: only what is judged has none yet.
            known = run if dense else {query: {} for query in queries}
            wanted = {query: judgements[query] if dense else {**run[query], **judgements[query]} for query in queries}
            scored = similarities_of(encoder, collection, wanted, options.batch_size, bar)
            similarities = {query: {**known[query], **scored[query]} for query in queries}
        mined, counts = mine(
            run, judgements, options.negatives, similarities, options.relevant_grade, options.margin or 0.0
        )
        if not mined:
            raise InputError(f"no negatives are left: {json.dumps(asdict(counts))}")
        with file.open("w", encoding="utf-8") as lines:
            lines.write(HEADER + "\n")
            for query, passages in mined.items():
                lines.writelines(f"{query}\t{passage}\t{options.grade}\n" for passage in passages)
        if run_file is not None:
            write_run(run_file, run, options.engine)
    print(json.dumps(asdict(counts)))


def _margin(text: str) -> float | None:
    if text == "none":
        return None
    margin = float(text)
    if not 0 <= margin < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, or none, got {text}")
    return margin


if __name__ == "__main__":
    sys.exit(main())
