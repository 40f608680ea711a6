"""What ten million passages cost the trainer at its start: `python -m benchmarks.training corpus`.

Generates a collection (four passages of about 300 characters a query, each judged once, as the generator writes them)
in a temporary folder, and reads it in processes of their own: first without an index, then with one, from a folder and
as a YAML of two sources; each then draws batches of groups at random places. Figures are of the process: the peak of
its resident memory, and what is its own at the end (not pages of files, which the system takes back when it needs
them). The file cache is as the process before left it. Everything is deleted at the end.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from training.collection_writer import CollectionWriter
from training.data import read_collection
from training.groups import GradedGroups

FIRST = "folder, no index yet"
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
    before = resident("VmHWM")
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
        "peak_mib": round(resident("VmHWM") / 2**20),
        "peak_before_mib": round(before / 2**20),
        "own_mib": round(resident("RssAnon") / 2**20),
    }


def resident(field: str) -> int:
    """Bytes of this process's memory: "VmHWM", the most that was resident at a time, or "RssAnon", what no file backs.

    Not getrusage's ru_maxrss: it begins with the memory of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this needs Linux")


def measure(passages: int, scratch: Path | None = None) -> dict[str, Any]:
    """Sizes, and a row for each start: see above. `scratch` is where to generate; 4 GB for ten million."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder, cache = Path(name) / "collection", Path(name) / "cache"
        folder.mkdir()
        began = time.perf_counter()
        generate(folder, passages)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"generated {size / 1e9:.2f} GB in {time.perf_counter() - began:.0f} s", flush=True)
        for start_name, data in (
            (FIRST, folder),
            ("folder", folder),
            ("folder again", folder),
            ("YAML of two sources", folder / "data.yaml"),
        ):
            measured = subprocess.run(
                [sys.executable, "-m", "benchmarks.large_corpus", str(data)],
                env=os.environ | {"WASSRANK_CACHE": str(cache)},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
            rows.append({"name": start_name} | json.loads(measured))
            print(rows[-1], flush=True)
        index = sum(path.stat().st_size for path in cache.rglob("*.npy"))
    return {"passages": passages, "bytes": size, "index_bytes": index, "rows": rows}


if __name__ == "__main__":  # the process that is measured
    print(json.dumps(start(Path(sys.argv[1]))))
