"""Embeddings of a batch that processes share: each must find its part of what one process would find for all."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from embeddings_worker import CASES, COUNTS, WAYS, D, K, batch, part, step
from torch import Tensor

import wassrank

HERE = Path(__file__).parent


def run(world: int, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    return subprocess.run(
        [*command, str(HERE / "embeddings_worker.py"), str(out), *options],
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module", params=COUNTS, ids=lambda world: f"{world} processes")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each process left."""
    out = tmp_path_factory.mktemp("embeddings")
    result = run(request.param, out)
    assert result.returncode == 0, result.stderr[-4000:]
    return [torch.load(out / f"{rank}.pt") for rank in range(request.param)]


def assert_parts_of_the_whole(parts: list[list[Tensor]], want: list[Tensor]) -> None:
    losses, of_queries, of_passages, of_temperature = zip(*parts, strict=True)
    if want[0].dim():
        torch.testing.assert_close(torch.cat(losses), want[0], rtol=1e-10, atol=1e-13)
    for loss in losses:
        assert want[0].dim() or abs(loss - want[0]) <= 1e-11 * abs(want[0]) + 1e-14
    # The temperature is every process's, as a model's weights are: each has its share of the gradient.
    got = torch.cat(of_queries), torch.cat(of_passages), torch.stack(of_temperature).sum(0)
    for one, other in zip(got, want[1:], strict=True):
        assert (one - other).norm() <= 1e-10 * other.norm() + 1e-13


@pytest.mark.parametrize("way", WAYS, ids=["gather", "ring"])
@pytest.mark.parametrize("name", CASES)
def test_each_process_has_its_part_of_the_whole(name: str, way: bool | str, found: list[dict[Any, Any]]) -> None:
    want = step(name, *batch(name))
    assert_parts_of_the_whole([process[name, way] for process in found], want)


@pytest.mark.parametrize("way", WAYS, ids=["gather", "ring"])
def test_data_parallel_training_has_the_gradient_of_the_whole(way: bool | str, found: list[dict[Any, Any]]) -> None:
    q, p, labels, _ = batch("grade_wasserstein")
    torch.manual_seed(0)
    encoder = torch.nn.Linear(D, D, bias=False, dtype=torch.float64)
    wassrank.grade_wasserstein_from_embeddings(encoder(q), encoder(p), labels).backward()
    for process in found:
        torch.testing.assert_close(process["averaged", way], encoder.weight.grad, rtol=1e-10, atol=1e-13)


ERRORS = {
    "other K": ("label the same K",) * 2,
    "other width": ("embeddings of the same width",) * 2,
    "other options": ("different options",) * 2,
    # The others, and the one.
    "one is wrong": ("process [13] of the group refused its arguments", "temperature must be a positive finite number"),
    "one has a stray label": ("refused its labels", "labels hold grade 9"),
    "one has a stray label, gaussian": ("refused its labels", "labels hold grade 9"),
    "passages of nobody": (r"its queries' own passages|refused its arguments",) * 2,
    "symmetric": ("symmetric=True ranks the queries of one process",) * 2,
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_wrong_on_one_process_is_an_error_on_all(name: str, found: list[dict[Any, Any]]) -> None:
    *others, last = (process["errors"][name] for process in found)
    for text in others:
        assert re.search(ERRORS[name][0], text), text
    assert re.search(ERRORS[name][1], last), last


def test_some_of_the_processes_may_share_a_batch(found: list[dict[Any, Any]]) -> None:
    four = slice(0, 4)
    want = step("grade_wasserstein", *part("grade_wasserstein", four))
    assert_parts_of_the_whole([process["pair"] for process in found[:2]], want)


def test_a_process_that_dies_in_the_ring_is_an_error_on_the_others(tmp_path: Path) -> None:
    """Within the group's time limit, 10 s, and no hang."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not by torch.distributed.run, which would end the others itself.
    group = {"WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "embeddings_worker.py"), str(tmp_path), "--dies"]
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | group | {"RANK": str(rank), "PYTHONPATH": str(HERE.parent)},
            stderr=subprocess.DEVNULL,
        )
        for rank in range(4)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0, 9]
    for rank in range(3):
        seconds, error = (tmp_path / f"{rank}.txt").read_text().split("\n", 1)
        assert float(seconds) < 60
        assert error.startswith("RuntimeError") or "Error" in error.split(":")[0], error


@pytest.mark.parametrize("way", WAYS, ids=["gather", "ring"])
def test_alone_it_changes_nothing(way: bool | str) -> None:
    given = batch("grade_wasserstein")
    for one, other in zip(
        step("grade_wasserstein", *given, gather=way), step("grade_wasserstein", *given), strict=True
    ):
        assert torch.equal(one, other)
    assert K * len(given[0]) == len(given[1])
