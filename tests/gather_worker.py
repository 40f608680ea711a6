"""One process of several that share a batch: computes its rows of every case and leaves them at OUT/<rank>.pt, where
tests/test_gather.py, which starts it, looks for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from wassrank import gaussian_wasserstein
from wassrank.gaussian import distance

COUNTS = {2: [5, 3], 4: [3, 2, 1, 2]}  # rows of each process
K = 3
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperatures": {"temperature": 0.3, "label_temperature": 0.5},
    "excluded": {"in_batch": None},
    "exp2": {"target": "exp2", "in_batch": 1},
    "mask of own passages": {"mask": "own"},
    "mask of all passages": {"mask": "all"},
    "impossible": {"impossible": True},
    "dense": {"dense": True},
    "dense masked": {"dense": True, "mask": "all"},
    "given": {"given": "own", "mask": "own"},
    "given to all": {"given": "all"},
    "a temperature a query": {"label_temperatures": True},
    "eps": {"eps": 1e-6},
    "no samples": {"nothing": True, "target": "linear"},
    "floats": {"floats": True, "in_batch": -0.25},
}


def batch(name: str) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The whole of it."""
    asked = dict(CASES[name])
    Q = 8
    generator = torch.Generator().manual_seed(len(name))
    scores = torch.randn(Q, Q * K, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (Q, Q * K if asked.pop("dense", False) else K), generator=generator)
    if asked.pop("nothing", False):
        labels[3], labels[:, 0] = 0, labels[:, 0].clamp(min=1)
        labels[3] = 0
    if asked.pop("floats", False):
        labels = labels + torch.rand(labels.shape, generator=generator)
    if asked.pop("impossible", False):
        scores[2, 5] = -torch.inf
    shapes = {"own": labels.shape, "all": scores.shape}
    if "mask" in asked:
        asked["mask"] = torch.rand(shapes[asked["mask"]], generator=generator) > 0.3
    if "given" in asked:
        asked["target"] = torch.rand(shapes[asked.pop("given")], generator=generator, dtype=torch.float64)
    if asked.pop("label_temperatures", False):
        asked["label_temperature"] = 0.5 + torch.rand(Q, generator=generator, dtype=torch.float64)
    return scores, labels, asked


def part(name: str, rows: slice) -> tuple[Tensor, Tensor, dict[str, Any]]:
    scores, labels, asked = batch(name)
    return scores[rows], labels[rows], {n: v[rows] if isinstance(v, Tensor) else v for n, v in asked.items()}


def step(scores: Tensor, labels: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = scores.clone().requires_grad_()
    loss = gaussian_wasserstein(leaf, labels, **options)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def wrong(rank: int) -> dict[str, Callable[[], Any]]:
    """What must be an error on every process, and a hang on none."""
    S, y, last = torch.zeros(2, 4 * dist.get_world_size()), torch.zeros(2, 2).long(), rank == dist.get_world_size() - 1
    call = gaussian_wasserstein
    return {
        "other K": lambda: call(S, torch.zeros(2, 1 if last else 2).long(), gather=True),
        "other N": lambda: call(S[:, : 4 if last else 8], y, gather=True),
        "too few columns": lambda: call(S[:, :4], y, gather=True),
        "other options": lambda: call(S, y, temperature=0.5 if last else 1.0, gather=True),
        "one is wrong": lambda: call(S, y, temperature=-1.0 if last else 1.0, gather=True),
        "one has no tensor": lambda: call(cast(Tensor, [[0.0]]) if last else S, y, gather=True),
        "one has a stray label": lambda: call(S, y + 9 if last else y, gather=True),
        "plain torch": lambda: call(S, y, gather=True, backend="torch"),
    }


def exchanged(run: Callable[[], Any]) -> int:
    """Numbers in the largest tensor a process sends or adds to others'."""
    most, (all_gather, all_reduce) = 0, (dist.all_gather, dist.all_reduce)

    def gather(outputs: list[Tensor], local: Tensor, **options: Any) -> None:
        nonlocal most
        most = max(most, local.numel())
        all_gather(outputs, local, **options)

    def reduce(local: Tensor, *op: Any, **options: Any) -> None:
        nonlocal most
        most = max(most, local.numel())
        all_reduce(local, *op, **options)

    with mock.patch.multiple(dist, all_gather=gather, all_reduce=reduce):
        run()
    return most


def main(out: Path) -> None:
    distance.CPU_TILE = 8 * 8  # so that there are three tiles
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank, world = dist.get_rank(), dist.get_world_size()
    first = sum(COUNTS[world][:rank])
    rows = slice(first, first + COUNTS[world][rank])
    found: dict[Any, Any] = {"errors": {}}
    for name in CASES:
        scores, labels, asked = part(name, rows)
        for covariance in ("full", "diagonal"):
            if covariance == "full" or "eps" not in asked:
                found[name, covariance] = step(scores, labels, covariance=covariance, gather=True, **asked)
    for name, call in wrong(rank).items():
        try:
            call()
            found["errors"][name] = "none"
        except (TypeError, ValueError) as error:
            found["errors"][name] = str(error)
    scores, labels, _ = part("plain", rows)
    found["exchanged"] = exchanged(lambda: step(scores, labels, gather=True))
    pair = dist.new_group([0, 1])  # a part of the processes
    if rank < 2:
        scores, labels, _ = batch("plain")
        four = slice(2 * rank, 2 * rank + 2)
        found["pair"] = step(scores[four, : 4 * K], labels[four], gather=True, group=pair)
    torch.save(found, out / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
