"""A study's unit of work: one contestant on one fold. It chooses on the others, trains on them, is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from training.evaluate import Search, find
from training.measures import Quality, main_measure, measure
from training.runs import rankings
from training.study.contestants import Setting
from training.study.head import Batch, Head, draw, train
from training.study.problem import Problem

SHALLOW = 10  # what nDCG@10 looks at


@dataclass(frozen=True)
class Result:
    """What a contestant came to on a fold.

    Args:
        chosen: its setting, by number.
        epochs: chosen too.
        validation: for each setting, nDCG@10 on held-out training queries after each epoch.
        qualities: one a seed, of the fold's queries.
    """

    chosen: int
    epochs: int
    validation: list[list[float]]
    qualities: list[Quality]


def result(problem: Problem, settings: Sequence[Setting], fold: int) -> Result:
    """One contestant's whole work on one fold."""
    plan = problem.plan
    measured, training = plan.fold(fold, len(problem.frozen.queries))
    validation = validated(problem, settings, training)
    chosen, epochs = best(validation)
    qualities = []
    for seed in range(1, plan.seeds + 1):  # 0 has chosen
        batches = draw(problem.groups(seed), training, plan.batch_size, epochs, seed)
        *_, head = _trained(problem, settings[chosen], batches)
        qualities.append(quality(problem, head, measured))
    return Result(chosen, epochs, validation, qualities)


def validated(problem: Problem, settings: Sequence[Setting], training: Sequence[int]) -> list[list[float]]:
    """For each setting nDCG@10 after each epoch, the mean over the queries of `training`, each held out once."""
    plan = problem.plan
    values: list[list[list[float]]] = [[[] for _ in range(plan.epochs)] for _ in settings]  # of single queries
    for held_out in plan.dealt(training, plan.validation_folds):
        rest = sorted(set(training) - set(held_out))
        batches = draw(problem.groups(seed=0), rest, plan.batch_size, plan.epochs, seed=0)
        for of_setting, setting in zip(values, settings, strict=True):
            for of_epoch, head in zip(of_setting, _trained(problem, setting, batches), strict=True):
                of_epoch += _ndcg(problem, head, held_out)
    return [[mean(of_epoch) for of_epoch in of_setting] for of_setting in values]


def best(validation: Sequence[Sequence[float]]) -> tuple[int, int]:
    """The number of the setting, and of epochs, with the highest value; of equals the first."""
    _, setting, epoch = max(
        (value, -setting, -epoch) for setting, curve in enumerate(validation) for epoch, value in enumerate(curve)
    )
    return -setting, -epoch + 1


def untrained(problem: Problem, places: Sequence[int]) -> Quality:
    """The encoder as it is."""
    return quality(problem, Head(problem.frozen.passages.shape[1], problem.frozen.normalize), places)


def quality(problem: Problem, head: Head, places: Sequence[int]) -> Quality:
    """All measures of the queries at `places`."""
    qrels = qrels_at(problem, places)
    search = Search(identical=problem.plan.identical)
    return measure(_ranked(problem, head, places, list(qrels), search), qrels, problem.plan.relevant_grade)


def _trained(problem: Problem, setting: Setting, batches: Sequence[Sequence[Batch]]) -> Iterator[Head]:
    loss = setting.build(problem.highest_grade)
    return train(problem.frozen, loss, setting.in_batch, batches, problem.plan.learning_rate)


def _ndcg(problem: Problem, head: Head, places: Sequence[int]) -> list[float]:
    qrels = qrels_at(problem, places)
    search = Search(depth=SHALLOW, identical=problem.plan.identical)
    return list(main_measure(_ranked(problem, head, places, list(qrels), search), qrels).values())


@torch.inference_mode()
def _ranked(
    problem: Problem, head: Head, places: Sequence[int], queries: Sequence[str], search: Search
) -> Mapping[str, Sequence[str]]:
    asked = head(problem.frozen.queries[list(places)])
    return rankings(find(asked, head(problem.frozen.passages), queries, list(problem.collection.corpus), search))


def qrels_at(problem: Problem, places: Sequence[int]) -> dict[str, dict[str, float]]:
    """The judgements of the queries at `places`."""
    judged = problem.collection.qrels[problem.split]
    ids = [judged.query_id(place) for place in places]
    return {query: judged[query] for query in ids}
