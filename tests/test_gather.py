"""A batch shared by processes: each must find its rows of what one process would find for all of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gather_worker import CASES, COUNTS, K, batch, step

HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=COUNTS, ids=lambda world: f"{world} processes")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each process left."""
    out = tmp_path_factory.mktemp("gather")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={request.param}"]
    run = subprocess.run(
        [*command, str(HERE / "gather_worker.py"), str(out)],
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return [torch.load(out / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("name", CASES)
def test_each_process_has_its_rows_of_the_whole(name: str, covariance: str, found: list[dict[Any, Any]]) -> None:
    scores, labels, options = batch(name)
    if covariance == "diagonal" and "eps" in options:
        pytest.skip("eps is for the full covariance")
    want, want_gradient = step(scores, labels, covariance=covariance, **options)
    parts = [process[name, covariance] for process in found]
    for loss, _ in parts:
        assert abs(loss - want) <= 1e-13
    gradient = torch.cat([gradient for _, gradient in parts])
    assert (gradient - want_gradient).norm() <= 1e-11 * want_gradient.norm()


ERRORS = {
    "other K": ("same N passages and label the same K",) * 2,
    "other N": ("same N passages and label the same K",) * 2,
    "too few columns": ("Q*K=",) * 2,
    "other options": ("different options",) * 2,
    # The others, and the one.
    "one is wrong": ("process [13] of the group refused its arguments", "temperature must be a positive finite number"),
    "one has no tensor": ("refused its arguments", "scores must be a tensor, got list"),
    "one has a stray label": ("refused its labels", "labels hold grade 9"),
    "plain torch": ("gather=True is for the fused backends",) * 2,
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_wrong_on_one_process_is_an_error_on_all(name: str, found: list[dict[Any, Any]]) -> None:
    *others, last = (process["errors"][name] for process in found)
    for text in others:
        assert re.search(ERRORS[name][0], text), text
    assert re.search(ERRORS[name][1], last), last


def test_some_of_the_processes_may_share_a_batch(found: list[dict[Any, Any]]) -> None:
    scores, labels, _ = batch("plain")
    want, want_gradient = step(scores[:4, : 4 * K], labels[:4])
    for process in found[:2]:
        assert abs(process["pair"][0] - want) <= 1e-13
    gradient = torch.cat([process["pair"][1] for process in found[:2]])
    assert (gradient - want_gradient).norm() <= 1e-11 * want_gradient.norm()


def test_statistics_are_exchanged_and_no_scores(found: list[dict[Any, Any]]) -> None:
    Q, counts = len(batch("plain")[0]), COUNTS[len(found)]
    for process in found:
        assert process["exchanged"] <= max(max(counts) * Q, 2 * Q * K)  # rows of A; the columns' sums


def test_alone_it_changes_nothing() -> None:
    scores, labels, _ = batch("plain")
    for one, other in zip(step(scores, labels, gather=True), step(scores, labels), strict=True):
        assert torch.equal(one, other)
