"""`python -m benchmarks.readme`: writes the README's tables from the newest stored results. No figure there is typed.

With --check it changes nothing and fails if the README does not hold what the results say.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from training.report import difference
from training.report import table as demo_table

HERE = Path(__file__).parent
README = HERE.parent / "README.md"


def newest(pattern: str) -> tuple[Path, dict[str, Any]]:
    path = max((HERE / "results").glob(pattern))
    return path, json.loads(path.read_text(encoding="utf-8"))


def benchmarks() -> str:
    path, result = newest("cpu-*.json")
    where = result["machine"]
    lines = [
        f"Forward + backward, {where['threads']} threads of {where['cpu']} ({where['instruction_set']}), "
        f"torch {where['torch']}, {where['date']}. Both sides of a line took turns in one run; time is the ratio of "
        f"their medians, quiet that of their 20th percentiles: where they differ, a busy machine slowed one side more.",
        "",
        "| scores | labels | p | against | time | quiet | ours | theirs |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        shape = " × ".join(map(str, row["shape"]))
        ours, theirs = row["seconds"]["p50"] * 1e6, row["rival_seconds"]["p50"] * 1e6
        quiet = row["seconds"]["p20"] / row["rival_seconds"]["p20"]
        rival = re.sub(r"^((?:F|ot|torch)\.\w+)", r"`\1`", row["rival"])
        lines.append(
            f"| {shape} | {row['labels'].replace('_', '-')} | {row['p']:g} | {rival} | **{row['ratio']:.2f} ×** "
            f"| {quiet:.2f} × | {ours:,.0f} µs | {theirs:,.0f} µs |"
        )
    large = max((r for r in result["rows"] if "extra_memory" in r), key=lambda r: r["shape"])
    lines += [
        "",
        f"Memory beyond inputs and gradient at {' × '.join(map(str, large['shape']))}: {large['extra_memory']:.1%} "
        f"of the scores. All figures: [{path.name}](benchmarks/results/{path.name}); `make bench` measures them anew.",
    ]
    return "\n".join(lines)


def demo() -> str:
    path, result = newest("demo-*.json")
    where, settings = result["machine"], result["settings"]
    zero_shot, *trained = result["rows"]
    gains = "; ".join(
        f"{row['name']} {gain:+.3f} ± {error:.3f}" for row in trained for gain, error in [difference(row, zero_shot)]
    )
    return "\n".join(
        [
            f"`make demo` on {where['cores']} cores of {where['cpu']}, torch {where['torch']}, {where['date']}: "
            f"all-MiniLM-L6-v2, {settings['train_queries']} training queries of {settings['group_size']} passages, "
            f"{settings['test_queries']} test queries over {settings['passages']} passages, seed {settings['seed']}.",
            "",
            demo_table(result["rows"]),
            "",
            f"nDCG@10 over zero-shot, paired over queries, ± one standard error: {gains}.",
            "",
            f"From [{path.name}](benchmarks/results/{path.name}).",
        ]
    )


def filled(readme: str) -> str:
    for name, text in (("benchmarks", benchmarks()), ("demo", demo())):
        marks = rf"(?<=<!-- results:{name} -->\n).*?(?=<!-- end -->)"
        readme, found = re.subn(marks, (text + "\n").replace("\\", r"\\"), readme, flags=re.DOTALL)
        if found != 1:
            raise SystemExit(f"README.md needs one place marked <!-- results:{name} -->, has {found}")
    return readme


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    before = README.read_text(encoding="utf-8")
    after = filled(before)
    if check and after != before:
        print("README.md does not hold the newest results: run python -m benchmarks.readme", file=sys.stderr)
        return 1
    if not check:
        README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
