"""`python -m benchmarks.training`: what the trainer and the evaluator cost beside the work that cannot be avoided.

    python -m benchmarks.training                      # encoding, search, overhead: minutes, on two quiet cores
    python -m benchmarks.training search --queries 2048
    python -m benchmarks.training corpus               # ten million passages: minutes, 4 GB in a temporary folder

overhead    the share of a training step that is not the encoder's forward and backward (trainer_overhead.py)
encoding    the evaluator's embedding against a bare loop over batches sorted by length (retrieval.py)
search      exact search against one blocked torch.matmul and topk (retrieval.py)
corpus      starting on ten million passages: seconds and peak memory (large_corpus.py)

Each figure is printed beside its goal and kept in benchmarks/results/training-<date>.json, where a part that is
measured alone takes the place of its earlier figures of that day.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import large_corpus, machine, retrieval, trainer_overhead
from benchmarks.stored import RESULTS
from training.measures import DEPTH

OVERHEAD, ENCODING, SEARCH = 0.05, 1.05, 2.0  # shares of a step; ratios of seconds
START_SECONDS, START_MIB = 10.0, 1024.0  # "in seconds", once the index is there; "in under 1 GiB", always
LOSSES = ("info_nce", "listwise_kl", "grade_wasserstein", "gaussian_wasserstein")
BUSY = ("encoding", "search", "overhead")  # the parts that are measured unless told

Part = dict[str, Any]
"""settings, rows as measured, and goals: [{name, value, goal}]"""


def overhead(options: argparse.Namespace) -> Part:
    rows = [_shown(trainer_overhead.measure(name, options.steps)) for name in options.losses]
    settings = {
        "queries": trainer_overhead.BATCH,
        "accumulated": trainer_overhead.ACCUMULATED,
        "passages_a_query": trainer_overhead.GROUP,
        "max_length": trainer_overhead.LENGTH,
        "steps": options.steps,
    }
    return {
        "settings": settings,
        "rows": rows,
        "goals": [goal(f"overhead, {row['loss']}", row["overhead"], OVERHEAD) for row in rows],
    }


def encoding(options: argparse.Namespace) -> Part:
    row = _shown(retrieval.encoding(options.texts))
    return {"rows": [row], "goals": [goal("encoding / bare loop", row["ratio"], ENCODING)]}


def search(options: argparse.Namespace) -> Part:
    row = _shown(retrieval.search(options.queries, options.passages, options.k))
    return {"rows": [row], "goals": [goal("search / matmul and topk", row["ratio"], SEARCH)]}


def corpus(options: argparse.Namespace) -> Part:
    measured = large_corpus.measure(options.corpus_passages, options.scratch)
    goals = []
    for row in measured["rows"]:
        if row["name"] != large_corpus.FIRST:
            goals.append(goal(f"start, {row['name']}, seconds", row["seconds"], START_SECONDS))
        goals.append(goal(f"start, {row['name']}, MiB", row["peak_mib"], START_MIB))
    return measured | {"goals": goals}


PARTS: dict[str, Callable[[argparse.Namespace], Part]] = {
    "overhead": overhead,
    "encoding": encoding,
    "search": search,
    "corpus": corpus,
}


def goal(name: str, value: float, at_most: float) -> dict[str, Any]:
    return {"name": name, "value": value, "goal": at_most, "met": value <= at_most}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status, 1 if a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default {', '.join(BUSY)}")
    parser.add_argument("--steps", type=int, default=1, help="of each loss, after one to warm up (%(default)s)")
    parser.add_argument("--losses", nargs="+", choices=tuple(trainer_overhead.LOSSES), default=LOSSES)
    parser.add_argument("--texts", type=int, default=64, help="of the encoding, each round (%(default)s)")
    parser.add_argument("--queries", type=int, default=10_000, help="of the search (%(default)s)")
    parser.add_argument("--passages", type=int, default=1_000_000, help="of the search (%(default)s)")
    parser.add_argument("--k", type=int, default=DEPTH, help="passages found for a query (%(default)s)")
    parser.add_argument("--corpus-passages", type=int, default=10_000_000, help="of the corpus (%(default)s)")
    parser.add_argument("--scratch", type=Path, default=None, help="where the corpus is generated")
    parser.add_argument("--out", type=Path, help="result file; default benchmarks/results/training-<date>.json")
    options = parser.parse_args(arguments)
    for name in options.parts:
        if name not in PARTS:
            parser.error(f"no part {name!r}; there are {', '.join(PARTS)}")
    torch.set_num_threads(machine.THREADS)
    out = options.out or RESULTS / f"training-{machine.today()}.json"
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"] if out.exists() else {}
    missed = 0
    for name in options.parts or BUSY:
        began = time.perf_counter()
        measured = PARTS[name](options)
        # Above the number of cores: others were at work too.
        took = {"took_seconds": round(time.perf_counter() - began, 1), "load": round(os.getloadavg()[0], 2)}
        parts[name] = measured | took
        text = json.dumps({"machine": machine.describe(), "parts": parts}, indent=1)
        out.write_text(text + "\n", encoding="utf-8")
        for one in measured["goals"]:
            missed += not one["met"]
            print(f"{one['value']:10.4g}  goal {one['goal']:<6g} {'met' if one['met'] else 'MISSED':<7}{one['name']}")
    print(f"-> {out}")
    return 1 if missed else 0


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    print(row, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
