"""`python -m benchmarks.large_corpus`: what ten million passages cost the trainer at its start, in seconds and memory.

Generates a collection (four passages of about 300 characters a query, each judged once, as the generator writes them)
in a temporary folder, and reads it in processes of their own: first without an index, then with one, from a folder and
as a YAML of two sources; each then draws batches of groups at random places. Figures are of the process: the peak of
its resident memory, and what is its own at the end (not pages of files, which the system takes back when it needs
them). The file cache is as the process before left it. Everything is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine
from training.collection_writer import CollectionWriter
from training.data import read_collection
from training.groups import GradedGroups

HERE = Path(__file__).parent
LEVELS = 4
BATCHES, BATCH = 100, 64

YAML = """\
train:
  - {folder: ., min_score: 3}
  - {folder: ., max_score: 3, score_transform: {0: 0, 1: 1, 2: 1}, group_random_k: 2}
"""


def generate(folder: Path, passages: int) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(20_000)]
    sentences = [" ".join(rng.choices(words, k=14)) for _ in range(50_000)]  # about 100 characters each
    with CollectionWriter(folder) as writer:
        for query in range(passages // LEVELS):
            texts = [" ".join(rng.choices(sentences, k=3)) for _ in range(LEVELS)]
            graded = [(f"{query}_l{grade}", text, grade) for grade, text in enumerate(texts)]
            writer.add(f"q{query}", " ".join(rng.choices(words, k=6)), graded)
    (folder / "data.yaml").write_text(YAML, encoding="utf-8")


def start(data: Path) -> dict[str, float]:
    """Seconds until the first group, seconds a batch of groups, and memory: of this process."""
    before = peak()
    began = time.perf_counter()
    groups = GradedGroups(read_collection(data, ["train"]), "train", LEVELS, seed=1)
    first = groups[0]
    ready = time.perf_counter() - began
    assert len(first.passages) >= 3
    rng = random.Random(1)
    places = [rng.randrange(len(groups)) for _ in range(BATCHES * BATCH)]
    began = time.perf_counter()
    for place in places:
        groups[place]
    return {
        "seconds": round(ready, 2),
        "milliseconds_a_batch": round(1000 * (time.perf_counter() - began) / BATCHES, 2),
        "peak_mib": round(peak() / 2**20),
        "peak_before_mib": round(before / 2**20),
        "own_mib": round(own() / 2**20),
    }


def peak() -> int:
    """Bytes; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def own() -> int:
    """Bytes of resident memory that no file backs."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon: this needs Linux")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_corpus", description=__doc__)
    parser.add_argument("--passages", type=int, default=10_000_000)
    parser.add_argument("--scratch", type=Path, default=None, help="where to generate; 4 GB for ten million")
    parser.add_argument("--out", type=Path, help="result file; default benchmarks/results/large-corpus-<date>.json")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)  # the process that is measured
    options = parser.parse_args()
    if options.start:
        print(json.dumps(start(options.start)))
        return
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch) / "collection"
        folder.mkdir()
        began = time.perf_counter()
        generate(folder, options.passages)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"generated {size / 1e9:.2f} GB in {time.perf_counter() - began:.0f} s")
        environment = os.environ | {"WASSRANK_CACHE": str(Path(scratch) / "cache")}
        for name, data in (
            ("folder, no index yet", folder),
            ("folder", folder),
            ("folder again", folder),
            ("YAML of two sources", folder / "data.yaml"),
        ):
            command = [sys.executable, "-m", "benchmarks.large_corpus", "--start", str(data)]
            measured = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows.append({"name": name} | json.loads(measured))
            print(rows[-1])
        index = sum(path.stat().st_size for path in (Path(scratch) / "cache").rglob("*.npy"))
    where = machine.describe()
    out = options.out or HERE / "results" / f"large-corpus-{where['date']}.json"
    result = {"machine": where, "passages": options.passages, "bytes": size, "index_bytes": index, "rows": rows}
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"index {index / 1e6:.0f} MB -> {out}")


if __name__ == "__main__":
    main()
