"""The generator as a function: checks everything first, then takes up the run in its folder and goes on to its end."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from training.errors import InputError
from training.generate.backends import Backend
from training.generate.inputs import Inputs
from training.generate.prompts import BUNDLED, Prompts
from training.generate.run import Limits, Run, StoppedError
from training.generate.store import Store
from training.generate.tasks import Contexts, Queries, Task

MODES = ("conversation", "calls")


@dataclass(frozen=True)
class Summary:
    """How a run ended. Items are queries, or passages where queries are written for them."""

    items: int
    finished: int
    set_aside: int
    left: int  # without an answer: the same call again asks for them
    tokens: dict[str, int]
    failures: dict[str, int]  # requests that failed, by reason


def generate(
    source: Path,
    out: Path,
    backend: Backend,
    *,
    from_corpus: bool = False,
    mode: str = "conversation",
    prompts: Path = BUNDLED,
    examples: int = 1,
    seed: int = 0,
    limits: Limits | None = None,
    shard: tuple[int, int] = (1, 1),
    at_most: int | None = None,
    progress: bool = True,
) -> Summary:
    """Write passages at every level for the queries in `source`, and the BEIR files of all that is finished.

    A run that was stopped or killed is taken up again by the same call.

    Args:
        source: queries.jsonl; with `from_corpus`, corpus.jsonl.
        out: the run's folder, see `store`: absent, empty, or the same run's.
        backend: the language model.
        from_corpus: write a query for each passage instead, into queries.jsonl.
        mode: "conversation", all levels in one answer, or "calls", one call a level.
        prompts: folder of prompts.
        examples: how many examples the model is shown.
        seed: decides examples, forms, and what is drawn from the model.
        limits: how hard to try; by default as much at once as the backend likes.
        shard: (i, n): every n-th item, from the i-th on, 1 ≤ i ≤ n.
        at_most: so many items, drawn by the seed from the whole source.
        progress: show a bar.

    Raises:
        InputError: bad input, before any work; or a backend that is gone or a full disk, with all that is
            finished kept.
        KeyboardInterrupt, SystemExit: after SIGINT and SIGTERM, with all that is finished kept.
    """
    if mode not in MODES:
        raise InputError(f"mode must be one of {MODES}, got {mode!r}")
    limits = limits or Limits(concurrency=backend.concurrency)
    asked = Prompts(prompts, examples)
    task: Task = Queries(asked, seed) if from_corpus else Contexts(asked, seed, mode)
    inputs = Inputs(source, corpus=from_corpus)
    wanted = _wanted(inputs.usable, shard, at_most, seed)
    same_run = {
        "task": task.name,
        "source": inputs.digest,
        "backend": backend.describe(),
        "prompts": asked.digest,
        "examples": examples,
        "seed": seed,
        "max_tokens": limits.max_tokens,
        "shard": f"{shard[0]}/{shard[1]}",
        "at_most": at_most,
    }
    store = Store(out, task.records, task.id_key, same_run)
    try:
        return asyncio.run(_all(task, inputs, wanted, backend, store, limits, seed, progress))
    except StoppedError as stopped:
        if stopped.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        sys.exit(128 + stopped.number)
    finally:
        store.close()


async def _all(
    task: Task,
    inputs: Inputs,
    wanted: NDArray[np.bool_],
    backend: Backend,
    store: Store,
    limits: Limits,
    seed: int,
    progress: bool,
) -> Summary:
    total = int(wanted.sum())
    left = wanted.copy()
    for identifier in store.open(items=total):
        place = inputs.place(identifier)
        if place is None or not left[place]:
            raise InputError(f"{store.folder}: has {identifier!r} twice, or it is not among {inputs.path}")
        left[place] = False
    try:
        if left.any():
            await backend.start()
        store.save("running")
        try:
            done = total - int(left.sum())
            with tqdm(total=total, initial=done, unit="item", disable=not progress, smoothing=0.05) as bar:
                await Run(task, inputs.items(left), backend, store, limits, seed, bar).all()
            made = task.finish(store.folder) if store.finished else {}
            left_over = total - store.finished - store.set_aside
            store.save("incomplete" if left_over else "complete", made=made)
        except BaseException:
            store.save_if_possible("stopped")
            raise
    finally:
        await backend.close()
    return Summary(total, store.finished, store.set_aside, left_over, dict(store.tokens), dict(store.failures))


def _wanted(usable: NDArray[np.bool_], shard: tuple[int, int], at_most: int | None, seed: int) -> NDArray[np.bool_]:
    """By place in the source: is the item this run's?"""
    number, shards = shard
    if not 1 <= number <= shards:
        raise InputError(f"the shard must be i/n with 1 <= i <= n, got {number}/{shards}")
    places = np.flatnonzero(usable)
    if at_most is not None:
        if at_most < 1:
            raise InputError(f"at most {at_most} items leaves none")
        places = np.sort(np.random.default_rng(seed).permutation(places)[:at_most])
    mine = places[number - 1 :: shards]
    if not len(mine):
        raise InputError(f"shard {number}/{shards} has no items, there are {len(places)} in all")
    wanted = np.zeros(len(usable), dtype=np.bool_)
    wanted[mine] = True
    return wanted
