"""`python -m benchmarks.study`: keeps what a study of losses found, and writes docs/study.md and its pictures from it.

    python -m training.study --data DIR --split SPLIT --output HEAD
    python -m training.study.encoder --chosen-by HEAD --data DIR --output ENCODER
    python -m benchmarks.study --head HEAD --encoder ENCODER

With --page the page is written from what was kept; with --check nothing is written, and it fails if the page does not
hold the newest results.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.stored import RESULTS, newest, stale
from training.study.report import draw_differences, draw_options, sections
from training.tables import markdown_table

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "study.md"
PICTURES = (DOCS / "study-differences.png", DOCS / "study-options.png")


DEFAULTS = """\
## Defaults taken from it

No loss is told from InfoNCE or KL by this many queries; the intervals above say what a difference could be. What
options are worth is as clear for every loss that has them, and settings were compared on the same queries and batches:

- The grade-axis losses' `target` is "auto": for integer grades linear gains, which are the best target of the four
  losses that were given all, with exp2 next and the softmax at label_temperature 1 last. A teacher's scores may be
  negative and have no gains: their default stays the softmax. `listwise_kl` and `gaussian_wasserstein` keep the
  softmax, as published: give them `target="linear"`.
- Alone, the distance is weaker than its rivals (its gradient is proportional to P); with KL it is the best of all on
  held-out training queries, and level with KL on test queries. The trainer's loss, unless told, is p = 1 with KL at
  factor 1 and temperature 0.1, the best setting there; at factor 0.3 or temperature 0.07 it is as good.
- InfoNCE does best where all passages from a grade up are its positives (`positives_from`), whichever grade; with the
  best of each group alone, its usual form, it is worst.
- Temperature 0.1 is the highest that was tried for all but ws2, and the best for InfoNCE and KL: they might do better
  still above it.
"""


def targets(data: dict[str, Any]) -> str:
    """A line a loss that has a target and nothing else beside the temperature."""
    columns = ("linear", "exp2", "softmax, 0.3", "softmax, 1")
    lines = []
    for name in ("KL", "ws2", "p=1", "p=2"):
        values = {column: [] for column in columns}  # type: dict[str, list[float]]
        for one in data["settings"][name]:
            of = one["target"]
            values[f"softmax, {one['label_temperature']:g}" if of == "softmax" else of].append(one["ndcg@10"])
        lines.append([name, *(f"{mean(values[column]):.4f}" for column in columns)])
    return markdown_table(["", *columns], lines, words=(0,))


def keep(kind: str, folder: Path) -> None:
    """The data of the study in `folder`, without the contestants' settings one by one, which `settings` has too."""
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    data["study"].pop("contestants", None)
    path = RESULTS / f"study-{kind}-{data['machine']['date']}.json"
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def page() -> str:
    path, head = newest("study-head-*.json")
    lines = [
        "# Which loss, with which options?",
        "",
        f"Written by `python -m benchmarks.study`, {head['machine']['date']}. {_setup(head)}",
        "",
        *_paragraphs(head),
        "What a target is worth: nDCG@10 on held-out training queries, the mean over temperatures.",
        "",
        targets(head),
        "",
        DEFAULTS,
        f"![nDCG@10 minus InfoNCE's]({PICTURES[0].name})",
        "",
        f"![what temperature and target are worth]({PICTURES[1].name})",
        "",
        f"All values: [{path.name}](../benchmarks/results/{path.name}).",
        "",
    ]
    if list(RESULTS.glob("study-encoder-*.json")):
        path, encoder = newest("study-encoder-*.json")
        lines += ["## The encoder itself", "", _encoder_setup(encoder), "", *_paragraphs(encoder)]
        lines += [
            "Again no difference is more than luck, nor does this little training raise nDCG@10 by more than that. "
            "The distance with KL has the highest mean, as on the head's held-out training queries.",
            "",
        ]
        lines += [f"All values: [{path.name}](../benchmarks/results/{path.name}).", ""]
    return "\n".join(lines)


def _paragraphs(data: dict[str, Any]) -> list[str]:
    return [line for section in sections(data) for line in (section, "")]


def _setup(data: dict[str, Any]) -> str:
    study, plan = data["study"], data["study"]["plan"]
    return (
        f"{study['data'].capitalize()}: {study['queries']} queries, {study['passages']} passages. A linear head, "
        f"x + A x from A = 0, the same for queries and passages, on frozen embeddings of {study['model']}; AdamW at "
        f"{plan['learning_rate']:g}, {plan['batch_size']} queries a batch with up to {plan['group_size']} judged "
        f"passages each, the others' at grade 0. {plan['folds']} folds; on the other folds {plan['validation_folds']}-"
        f"fold cross-validation chooses each loss's options (`training/study/contestants.yaml`) and up to "
        f"{plan['epochs']} epochs; then {plan['seeds']} seeds. nDCG has linear gains; relevant, for MAP, MRR and "
        f"recall, is grade {plan['relevant_grade']} and above."
    )


def _encoder_setup(data: dict[str, Any]) -> str:
    study, recipe = data["study"], data["study"]["recipe"]
    return (
        f"All weights trained, folds {', '.join(map(str, study['folds']))}, each loss with what its head chose there; "
        f"{recipe['epochs']} epochs at {recipe['learning_rate']:g}, {recipe['batch_size']} queries a batch with up to "
        f"{recipe['group_size']} judged passages each, {'bfloat16, ' if recipe['bf16'] else ''}"
        f"{study['seeds']} seed{'s' if study['seeds'] > 1 else ''}."
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("--head", type=Path, default=None, help="folder of a study that is complete")
    parser.add_argument("--encoder", type=Path, default=None, help="the same, of the encoder itself")
    parser.add_argument("--page", action="store_true", help="from stored results")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        return stale(PAGE, page(), "benchmarks.study")
    if not (options.page or options.head or options.encoder):
        parser.error("nothing to keep or to write: --head, --encoder or --page")
    for kind in ("head", "encoder"):
        if (folder := getattr(options, kind)) is not None:
            keep(kind, folder)
    PAGE.write_text(page(), encoding="utf-8")
    _, head = newest("study-head-*.json")
    draw_differences(head, PICTURES[0])
    draw_options(head, PICTURES[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
