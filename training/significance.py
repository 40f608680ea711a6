"""Whether runs differ, or only their luck with the queries: paired tests over the queries, corrected for their number.

    python -m training.significance --data DIR --run bm25.trec --run ours.trec [--measure ndcg@10] [--against bm25]

Of every pair of runs (or every run against one): the mean difference with its 95 % confidence interval (Student's t),
and p-values of a paired t-test and of a paired randomisation test (signs of the differences flipped), the test that
assumes no distribution. Corrected p-values are of the randomisation test, by Holm's method, which bounds the chance of
one false claim among all, or Benjamini and Hochberg's, which bounds their share.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.cli import OneLineErrors, exit_status
from training.errors import InputError
from training.evaluation_sets import check_name, check_relevant, open_collection
from training.measures import MAIN, MEASURES, RELEVANT_GRADE, check_relevant_grade, measure
from training.runs import rankings, read_run, without_identical
from training.tables import markdown_table

RESAMPLES = 10_000  # a p-value of 0.05 is then known to 0.002, its standard error
LEVEL = 0.05
SEED = 0

OfQuery = Mapping[str, float]
"""query id → the value of a measure"""


@dataclass(frozen=True)
class Difference:
    """Run `first` minus run `second`."""

    first: str
    second: str
    mean: float  # first − second
    low: float  # of the 95 % confidence interval
    high: float
    p_t: float
    p_randomisation: float
    p_corrected: float

    @property
    def significant(self) -> bool:
        return self.p_corrected < LEVEL


def differences(
    values: Mapping[str, OfQuery],  # run → its values
    against: str | None = None,
    correction: str = "holm",
) -> list[Difference]:
    """Every pair of runs, or every other run minus `against`, tested on the same queries.

    Raises:
        InputError: fewer than two runs or queries, runs of different queries, no run called `against`.
    """
    names = list(values)
    if len(names) < 2:
        raise InputError(f"two runs are needed to compare, got {len(names)}")
    if against is not None and against not in values:
        raise InputError(f"no run is called {against!r}; there are {', '.join(names)}")
    queries = list(values[names[0]])
    if len(queries) < 2:
        raise InputError("two queries are needed to compare runs")
    for name in names:
        if values[name].keys() != values[names[0]].keys():
            raise InputError(f"runs {names[0]!r} and {name!r} have different queries")
    pairs = [(name, against) for name in names if name != against] if against else list(combinations(names, 2))
    gains = [np.array([values[first][query] - values[second][query] for query in queries]) for first, second in pairs]
    tested = [_tested(gain) for gain in gains]
    corrected = CORRECT[correction]([p for *_, p in tested])
    return [
        Difference(first, second, float(gain.mean()), *of_pair, p_corrected=p)
        for (first, second), gain, of_pair, p in zip(pairs, gains, tested, corrected, strict=True)
    ]


def _tested(gain: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Confidence interval, p by Student's t, p by randomisation."""
    if not gain.any():
        return 0.0, 0.0, 1.0, 1.0
    t = stats.ttest_1samp(gain, 0.0)
    interval = t.confidence_interval(0.95)
    randomised = stats.permutation_test(
        (gain,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,
        rng=np.random.default_rng(SEED),
    )
    return float(interval.low), float(interval.high), float(t.pvalue), float(randomised.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the i-th smallest of m is multiplied by m − i, none falls below a smaller one's."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1.0)
    corrected = np.empty(len(p_values))
    corrected[order] = stepped
    return [float(p) for p in corrected]


def false_discovery(p_values: Sequence[float]) -> list[float]:
    return [float(p) for p in stats.false_discovery_control(p_values)]


CORRECT = {"holm": holm, "fdr": false_discovery}


def table(found: Sequence[Difference]) -> str:
    """The differences as a Markdown table; those that hold after correction have a star."""
    header = ["", "difference", "95 % interval", "p (t)", "p (randomisation)", "corrected"]
    lines = [
        (
            f"{one.first} − {one.second}",
            f"{one.mean:+.4f}",
            f"{one.low:+.4f} … {one.high:+.4f}",
            _p(one.p_t),
            _p(one.p_randomisation),
            _p(one.p_corrected) + ("*" if one.significant else " "),
        )
        for one in found
    ]
    return markdown_table(header, lines, words=(0,))


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def named(texts: Sequence[str], option: str) -> dict[str, str]:
    """What options of the form NAME=PATH, or PATH alone, name: name → path.

    Raises:
        InputError: two have one name, or one's name cannot name a file.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        name, path = (name, path) if equals else (Path(text).name.removesuffix(".trec"), text)
        check_name(name, option)
        if name in found:
            raise InputError(f"{option}: two are called {name!r}: give names, NAME=PATH")
        found[name] = path
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: prints each run's mean, and the table of differences. Returns the exit status."""
    parser = OneLineErrors(prog="training.significance", description="paired tests between TREC runs")
    parser.add_argument("--data", required=True, help="folder in the BEIR layout, YAML of sources, or hub name")
    parser.add_argument("--run", action="append", required=True, help="TREC run, PATH or NAME=PATH; at least two")
    add_significance_options(parser)
    parser.add_argument("--split", default="test", help="which qrels file (default: %(default)s)")
    parser.add_argument("--relevant-grade", type=int, default=RELEVANT_GRADE, help="default: %(default)s")
    parser.add_argument("--identical-ids", choices=("drop", "keep"), default="drop", help="see training.evaluate")
    options = parser.parse_args(arguments)

    def command() -> None:
        check_relevant_grade(options.relevant_grade)
        collection = open_collection(options.data, options.split)
        check_relevant(collection, options.split, options.relevant_grade, options.data)
        values: dict[str, OfQuery] = {}
        for name, path in named(options.run, "--run").items():
            run = read_run(Path(path))
            found = run if options.identical_ids == "keep" else without_identical(run)
            quality = measure(rankings(found), collection.qrels[options.split], options.relevant_grade)
            values[name] = quality.values(options.measure)
        tested = differences(values, options.against, options.correction)
        means = [(name, f"{np.mean(list(of_query.values())):.4f}") for name, of_query in values.items()]
        print(markdown_table(["", options.measure], means, words=(0,)), table(tested), sep="\n\n")

    return exit_status(command)


def add_significance_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--measure", choices=MEASURES, default=MAIN, help="what is tested (default: %(default)s)")
    parser.add_argument("--against", default=None, help="compare every other run with this one (default: all pairs)")
    parser.add_argument("--correction", choices=CORRECT, default="holm", help="default: %(default)s")


if __name__ == "__main__":
    sys.exit(main())
