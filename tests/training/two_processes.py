"""Starts two processes on the CPU, and what they train on. For tests of runs of several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def torchrun(*command: str) -> None:
    """Two processes that run `command`."""
    launch("torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command)


def launch(*command: str) -> None:
    """Runs a module with its arguments."""
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


def ragged_collection(folder: Path) -> Path:
    """10 queries of 2 to 4 passages, drawn in groups of 3: not all groups are the same in both epochs, and a batch's
    longest group is not the same on both processes."""
    (folder / "qrels").mkdir(parents=True)
    corpus, queries, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for query in range(10):
        queries.append({"_id": f"q{query}", "text": f"alpha{query} beta{query}"})
        for grade in range(2 + query % 3):
            text = " ".join([*[f"alpha{query}", f"beta{query}"][:grade], f"gamma{(query + 3 * grade) % 10}"])
            corpus.append({"_id": f"q{query}g{grade}", "text": text})
            qrels.append(f"q{query}\tq{query}g{grade}\t{grade}")
    for name, records in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "qrels" / "train.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    return folder
