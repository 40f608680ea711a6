"""What a study found, as plain data: means, which differences are more than luck, what was chosen, what it is worth.

Everything a table or picture shows (`report.py`) is in this data; it is what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from training.measures import MAIN, Quality
from training.significance import differences
from training.study.contestants import Contestants
from training.study.cross_validation import Result
from training.study.store import KEPT

ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class Found:
    """Args:
    contestants: name → its settings.
    results: name → its result on each fold.
    zero_shot: the encoder as it is, on the queries of these folds.
    """

    contestants: Contestants
    results: Mapping[str, Sequence[Result]]
    zero_shot: Quality

    def values(self, measure: str) -> dict[str, dict[str, float]]:
        """contestant → query → the measure, its mean over the seeds."""
        return {ZERO_SHOT: self.zero_shot.values(measure)} | {
            name: {
                query: mean(quality.of_query[query][measure] for quality in result.qualities)
                for result in results
                for query in result.qualities[0].of_query
            }
            for name, results in self.results.items()
        }

    def of_seeds(self, name: str) -> list[float]:
        """nDCG@10 of all queries, a value a seed."""
        seeds = zip(*(result.qualities for result in self.results[name]), strict=True)
        return [mean(value for one in qualities for value in one.values(MAIN).values()) for qualities in seeds]

    def of_settings(self, name: str) -> list[dict[str, Any]]:
        """Each setting and its nDCG@10 on held-out training queries, after the best number of epochs: the mean over
        folds, best first. All queries take part in it, so this is for choosing defaults, not for comparing losses."""
        if not self.results[name][0].validation:  # it was told its settings
            return []
        curves = [
            [mean(values) for values in zip(*of_folds, strict=True)]
            for of_folds in zip(*(result.validation for result in self.results[name]), strict=True)
        ]
        valued = [
            setting.told() | {"epochs": curve.index(max(curve)) + 1, MAIN: max(curve)}
            for setting, curve in zip(self.contestants[name], curves, strict=True)
        ]
        return sorted(valued, key=lambda one: -one[MAIN])

    def data(
        self, study: Mapping[str, Any], machine: Mapping[str, Any], against: Sequence[str], correction: str
    ) -> dict[str, Any]:
        """All of it, for JSON.

        Args:
            study: what the results depend on.
            machine: where they were found.
            against: the contestants that all others are compared with.
            correction: of the p-values of each such comparison; of `significance.CORRECT`.
        """
        of_query = {measure: self.values(measure) for measure in KEPT}
        return {
            "machine": machine,
            "study": study,
            "means": {
                measure: {name: mean(values.values()) for name, values in contestants.items()}
                for measure, contestants in of_query.items()
            },
            "over_seeds": {
                name: stdev(self.of_seeds(name)) if len(results[0].qualities) > 1 else None
                for name, results in self.results.items()
            },
            "differences": {
                name: [
                    asdict(one) | {"significant": one.significant}
                    for one in differences(of_query[MAIN], name, correction)
                ]
                for name in against
            },
            "chosen": {
                name: [self.contestants[name][result.chosen].told() | {"epochs": result.epochs} for result in results]
                for name, results in self.results.items()
            },
            "settings": {name: self.of_settings(name) for name in self.results},
            "ndcg_of_query": {
                name: {query: round(value, 4) for query, value in values.items()}
                for name, values in of_query[MAIN].items()
            },
        }
