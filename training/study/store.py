"""Where a study's results lie: a file for each contestant and fold, so that a study that was cut off goes on.

FOLDER/study.json               all that the results depend on
FOLDER/results/FOLD-NUMBER.json a contestant's result on a fold; it appears whole
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.errors import InputError, first_line
from training.folders import staged_file
from training.measures import Quality
from training.study.cross_validation import Result

STUDY_FILE = "study.json"
KEPT = ("ndcg@10", "ndcg@100", "map", "mrr@10", "recall@100")
"""The measures of each query that are written."""


class Store:
    """Results in a folder that is new, or holds part of the same study.

    Raises:
        InputError: the folder holds something else, or another study; it cannot be written.
    """

    def __init__(self, folder: Path, study: Mapping[str, Any]) -> None:
        self.folder = folder
        file = folder / STUDY_FILE
        if file.is_file():
            if read_study(folder) != study:
                raise InputError(f"{folder}: holds a study of other data, contestants or options; name another folder")
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: is there already and holds no study; name a folder that does not exist yet")
        else:
            with staged_file(file) as staging:
                staging.write_text(json.dumps(study, indent=1) + "\n", encoding="utf-8")

    def __contains__(self, task: tuple[int, int]) -> bool:
        return self._file(*task).is_file()

    def add(self, fold: int, number: int, result: Result) -> None:
        """Keep the result of contestant `number` on a fold."""
        content = {
            "chosen": result.chosen,
            "epochs": result.epochs,
            "validation": result.validation,
            "of_query": [_kept(quality) for quality in result.qualities],
        }
        with staged_file(self._file(fold, number)) as staging:
            staging.write_text(json.dumps(content) + "\n", encoding="utf-8")

    def read(self, fold: int, number: int) -> Result:
        """What `add` has kept: of each quality the measures in KEPT."""
        file = self._file(fold, number)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            qualities = [Quality(of_query) for of_query in content["of_query"]]
            return Result(content["chosen"], content["epochs"], content["validation"], qualities)
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{file}: not a study's result: {first_line(error)}") from error

    def missing(self, folds: Sequence[int], contestants: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The tasks that are still to do, fold by fold."""
        return ((fold, number) for fold in folds for number in contestants if (fold, number) not in self)

    def _file(self, fold: int, number: int) -> Path:
        return self.folder / "results" / f"{fold}-{number}.json"


def read_study(folder: Path) -> dict[str, Any]:
    """What the results in `folder` depend on.

    Raises:
        InputError: there is no study.
    """
    file = folder / STUDY_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{file}: no study: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: no study")
    return content


def _kept(quality: Quality) -> dict[str, dict[str, float]]:
    return {query: {name: values[name] for name in KEPT} for query, values in quality.of_query.items()}
