"""The review's report: report.md, with report.png in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from training.generate.statistics import LevelStatistics, Statistics
from training.tables import markdown_table

REPORT_FILE, PICTURE_FILE = "report.md", "report.png"

# One hue, dark for the best level: levels are an order, not kinds.
SHADES = ("#08519C", "#3182BD", "#6BAED6", "#BDD7E7")
LEVEL_COLUMNS = (
    "grade",
    "passages",
    "kept",
    "words: median",
    "5 % to 95 %",
    "distinct words",
    "has of the query's words",
    "mean score",
)

NEUTRAL, BAD = "#999999", "#D55E00"


def write_report(statistics: Statistics, dropped: Sequence[str], folder: Path) -> None:
    """Both files into `folder`."""
    draw(statistics, folder / PICTURE_FILE)
    (folder / REPORT_FILE).write_text(report(statistics, dropped), encoding="utf-8")


def report(statistics: Statistics, dropped: Sequence[str]) -> str:
    """The text, in Markdown."""
    parts = [
        "# Review of generated ranking contexts",
        f"Kept: {_of(statistics.contexts_kept, statistics.contexts)} contexts, "
        f"{_of(statistics.passages_kept, statistics.passages)} passages. "
        f"Set aside while generating: {statistics.set_aside.total()} queries.",
        f"![Lengths, vocabulary, scores, gates, failures]({PICTURE_FILE})",
        "## Gates",
        "Each gate sees every context as it was generated; one-level sees what those that drop have left.",
        markdown_table(
            ["gate", "passages failing", "passages passing", "contexts touched", "dropped"],
            [
                [
                    name,
                    f"{gate.passages}",
                    _share(statistics.passages - gate.passages, statistics.passages),
                    f"{gate.contexts}",
                    "yes" if name in dropped else "no",
                ]
                for name, gate in statistics.gates.items()
            ],
            words=(0, 4),
        ),
        "## Levels",
        "Of the passages as they were generated. Words are what is between spaces and punctuation. If length or "
        "vocabulary alone tells the levels apart, a model learns that instead.",
        markdown_table(
            LEVEL_COLUMNS,
            [_level_row(grade, statistics.levels[grade]) for grade in _grades(statistics)],
            words=(),
        ),
        "## Order of the levels",
        _order(statistics),
        "## Failures",
        markdown_table(
            ["reason", "queries"],
            [[reason.replace("|", r"\|"), str(count)] for reason, count in statistics.set_aside.most_common()],
            words=(0,),
        )
        if statistics.set_aside
        else "No query was set aside.",
    ]
    return "\n\n".join(parts) + "\n"


def draw(statistics: Statistics, path: Path) -> None:
    """A PNG of six panels."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    panels: Any = figure.subplots(2, 3)
    grades = _grades(statistics)
    levels = [statistics.levels[grade] for grade in grades]
    shades = [SHADES[min(place, len(SHADES) - 1)] for place in range(len(grades))]
    labels = [str(grade) for grade in grades]

    def boxes(axis: Any, values: Sequence[Sequence[float]], title: str) -> None:
        drawn = axis.boxplot(values, whis=(5, 95), showfliers=False, patch_artist=True, tick_labels=labels)
        for box, median, shade in zip(drawn["boxes"], drawn["medians"], shades, strict=True):
            box.set_facecolor(shade)
            median.set_color("black")
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("grade")

    boxes(panels[0, 0], [level.words.values for level in levels], "words a passage (5 to 95 %)")
    panels[0, 0].set_ylim(bottom=0)
    panels[0, 1].bar(labels, [len(level.vocabulary) for level in levels], color=shades)
    panels[0, 1].set_title("distinct words of a level", fontsize=10, loc="left")
    panels[0, 1].set_xlabel("grade")
    if any(level.scores.count for level in levels):
        boxes(panels[0, 2], [level.scores.values for level in levels], "encoder's score (5 to 95 %)")
    else:
        _nothing(panels[0, 2], "encoder's score: not computed")
    boxes(panels[1, 0], [level.query_words.values for level in levels], "share of the query's words in the passage")
    shares = {name: 1 - gate.passages / max(1, statistics.passages) for name, gate in statistics.gates.items()}
    _bars(panels[1, 1], shares, "share of passages that pass a gate", "{:.1%}", NEUTRAL)
    panels[1, 1].set_xlim(0, 1.15)
    if statistics.set_aside:
        _bars(panels[1, 2], dict(statistics.set_aside.most_common(8)), "queries set aside, by reason", "{:.0f}", BAD)
    else:
        _nothing(panels[1, 2], "queries set aside: none")
    for axis in panels.flat:
        axis.grid(axis="both", alpha=0.3)
        axis.set_axisbelow(True)
    figure.savefig(path, dpi=120)


def _bars(axis: Any, values: dict[str, float] | dict[str, int], title: str, form: str, colour: str) -> None:
    names = [name if len(name) <= 24 else name[:23] + "…" for name in values]
    axis.barh(range(len(values)), list(values.values()), color=colour)
    axis.set_yticks(range(len(values)), names, fontsize=9)
    axis.invert_yaxis()
    for place, value in enumerate(values.values()):
        axis.text(value, place, " " + form.format(value), va="center", fontsize=9)
    axis.set_title(title, fontsize=10, loc="left")
    axis.margins(x=0.15)


def _nothing(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xticks([])
    axis.set_yticks([])


def _grades(statistics: Statistics) -> list[int]:
    return sorted(statistics.levels, reverse=True)


def _level_row(grade: int, level: LevelStatistics) -> list[str]:
    return [
        str(grade),
        str(level.words.count),
        _share(level.kept, level.words.count),
        f"{level.words.quantile(0.5):.0f}",
        f"{level.words.quantile(0.05):.0f} to {level.words.quantile(0.95):.0f}",
        str(len(level.vocabulary)),
        f"{level.query_words.mean():.0%}" if level.query_words.count else "–",
        f"{level.scores.mean():.3f}" if level.scores.count else "–",
    ]


def _order(statistics: Statistics) -> str:
    if not statistics.pairs:
        return "Not checked." if statistics.contexts else "No contexts."
    return (
        f"By the encoder's mean score of each level, {_of(statistics.ordered, statistics.comparable)} contexts fall "
        f"from the best level to the worst, and {_of(statistics.pairs_ordered, statistics.pairs)} pairs of passages "
        "of different grades are scored in order. An encoder that knew nothing would have half of the pairs right, "
        "and one in 24 of contexts with four levels."
    )


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole} ({_share(part, whole)})"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"
