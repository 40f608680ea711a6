"""Tasks of a study in several processes, each with one thread: so small a run has no work for two."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch
import torch.multiprocessing

from training.study.contestants import Setting
from training.study.cross_validation import Result, result
from training.study.problem import Problem


def done(
    problem: Problem, settings: Sequence[Sequence[Setting]], tasks: Sequence[tuple[int, int]], workers: int
) -> Iterator[tuple[tuple[int, int], Result]]:
    """Results of tasks (fold, number of the contestant), as they come; each worker is a process with one thread."""
    if workers == 1 or len(tasks) < 2:
        for fold, number in tasks:
            yield (fold, number), result(problem, settings[number], fold)
        return
    with ProcessPoolExecutor(
        workers, torch.multiprocessing.get_context("spawn"), initializer=_begin, initargs=(problem,)
    ) as pool:
        waiting = {pool.submit(_work, settings[number], fold): (fold, number) for fold, number in tasks}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:  # an interruption too: what is being worked on is not waited for
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


_problem: Problem | None = None  # of a worker: handed over once, not with each task


def _begin(problem: Problem) -> None:
    global _problem
    _problem = problem
    torch.set_num_threads(1)


def _work(settings: Sequence[Setting], fold: int) -> Result:
    assert _problem is not None
    return result(_problem, settings, fold)
