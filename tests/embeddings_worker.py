"""One process of several that share a batch of embeddings: computes its part of every case and leaves it at
OUT/<rank>.pt, where tests/test_from_embeddings_across_processes.py, which starts it, looks for it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import wassrank
from wassrank.gaussian import distance

COUNTS = {2: [5, 3], 4: [3, 2, 1, 2]}  # queries of each process
Q, K, D = 8, 3, 4
WAYS: list[bool | str] = [True, "ring"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "grade_wasserstein": ("grade_wasserstein", {}),
    "cosine, many tiles": ("grade_wasserstein", {"similarity": "cosine", "tile": (2, 4), "target": "linear"}),
    "weights": ("info_nce", {"weight": True, "reduction": "sum"}),
    "each query's": ("listwise_kl", {"reduction": "none"}),
    "own passages alone": ("listwise_kl", {"in_batch": None}),
    "mask of own passages": ("grade_wasserstein", {"mask": "own", "label_temperature": True}),
    "mask of all passages": ("grade_wasserstein", {"mask": "all"}),
    "dense": ("grade_wasserstein", {"dense": True, "tile": (2, 4)}),
    "dense, pairs left out": ("combined_loss", {"dense": True, "kl": 0.3, "exclude": "pairs"}),
    "pairs left out": ("info_nce", {"exclude": "pairs"}),
    "pairs left out, a list": ("info_nce", {"exclude": "list"}),
    "left out by a mask": ("info_nce", {"exclude": "bool"}),
    "negative_grade": ("info_nce", {"negative_grade": 1}),
    "given": ("listwise_kl", {"target": "own"}),
    "given to all": ("listwise_kl", {"target": "all"}),
    "a sum, plain torch": ("combined_loss", {"kl": 0.3, "info_nce": 0.2, "backend": "torch", "tile": (2, 4)}),
    "gaussian": ("gaussian_wasserstein", {}),
    "gaussian, chunks": ("gaussian_wasserstein", {"tile": (2, 1), "similarity": "cosine", "mask": "own"}),
    "gaussian, diagonal": ("gaussian_wasserstein", {"covariance": "diagonal", "tile": (2, 1)}),
    "gaussian, dense": ("gaussian_wasserstein", {"dense": True, "tile": (2, 1)}),
    "gaussian, left out": ("gaussian_wasserstein", {"exclude": "pairs"}),
    "gaussian, plain torch": ("gaussian_wasserstein", {"backend": "torch", "tile": (2, 1)}),
}


def batch(name: str) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """The whole of it: queries, passages, labels, options."""
    asked = dict(CASES[name][1])
    generator = torch.Generator().manual_seed(len(name))

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    q, p = random(Q, D) * 4 - 2, random(Q * K, D) * 4 - 2
    labels = torch.randint(0, 4, (Q, Q * K if asked.pop("dense", False) else K), generator=generator)
    shapes = {"own": labels.shape, "all": (Q, Q * K)}
    if "mask" in asked:
        asked["mask"] = random(*shapes[asked["mask"]]) > 0.3
    if asked.get("target") in shapes:
        asked["target"] = random(*shapes[asked["target"]])
    for one_a_query in ("weight", "label_temperature"):
        if asked.get(one_a_query) is True:
            asked[one_a_query] = 0.3 + random(Q)
    left_out = random(Q, Q * K) > 0.8
    if asked.get("exclude") == "bool":
        asked["exclude"] = left_out
    elif "exclude" in asked:
        asked["exclude"] = left_out.nonzero()
    return q, p, labels, asked


def part(name: str, rows: slice) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    q, p, labels, asked = batch(name)
    mine = {n: v[rows] if isinstance(v, Tensor) and n != "exclude" else v for n, v in asked.items()}
    if "exclude" in asked:
        exclude = asked["exclude"]
        if exclude.dtype == torch.bool:
            mine["exclude"] = exclude[rows]
        else:
            here = exclude[(exclude[:, 0] >= rows.start) & (exclude[:, 0] < rows.stop)]
            mine["exclude"] = here - torch.tensor([rows.start, 0])
    return q[rows], p[rows.start * K : rows.stop * K], labels[rows], mine


def step(name: str, q: Tensor, p: Tensor, labels: Tensor, options: dict[str, Any], **others: Any) -> list[Tensor]:
    """The loss, and its gradients for queries, passages and temperature."""
    leaves = (*(x.clone().requires_grad_() for x in (q, p)), torch.tensor(0.7, dtype=torch.float64, requires_grad=True))
    loss = getattr(wassrank, f"{CASES[name][0]}_from_embeddings")(
        *leaves[:2], labels, temperature=leaves[2], **options, **others
    )
    return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]


def averaged(rows: slice, way: bool | str) -> Tensor:
    """A linear encoder's gradient under DistributedDataParallel, which averages, of the loss times the processes."""
    q, p, labels, _ = part("grade_wasserstein", rows)
    torch.manual_seed(0)
    encoder = DistributedDataParallel(torch.nn.Linear(D, D, bias=False, dtype=torch.float64))
    embedded = encoder(torch.cat([q, p]))
    loss = wassrank.grade_wasserstein_from_embeddings(embedded[: len(q)], embedded[len(q) :], labels, gather=way)
    (loss * dist.get_world_size()).backward()
    gradient = encoder.module.weight.grad
    assert isinstance(gradient, Tensor)
    return gradient


def wrong(rank: int) -> dict[str, Callable[[], Any]]:
    """What must be an error on every process, and a hang on none."""
    q, p, y = torch.zeros(2, D), torch.zeros(2 * K, D), torch.zeros(2, K).long()
    last = rank == dist.get_world_size() - 1
    call, gaussian = wassrank.info_nce_from_embeddings, wassrank.gaussian_wasserstein_from_embeddings
    return {
        "other K": lambda: call(q, p[: 2 * (K - last)], y[:, : K - last], gather="ring"),
        "other width": lambda: call(q[:, : D - last], p[:, : D - last], y, gather="ring"),
        "other options": lambda: call(q, p, y, temperature=0.5 if last else 1.0, gather=True),
        "one is wrong": lambda: call(q, p, y, temperature=-1.0 if last else 1.0, gather="ring"),
        "one has a stray label": lambda: call(q, p, y + 9 if last else y, gather="ring"),
        "one has a stray label, gaussian": lambda: gaussian(q, p, y + 9 if last else y, gather="ring"),
        "passages of nobody": lambda: call(q, p[:-1] if last else p, y, gather=True),
        "symmetric": lambda: call(q, p, y, symmetric=True, gather=True),
    }


def main(out: Path, dies: bool) -> None:
    distance.CPU_TILE = 8 * 8  # so that there are three tiles of targets
    dist.init_process_group("gloo", timeout=timedelta(seconds=10 if dies else 60))
    rank, world = dist.get_rank(), dist.get_world_size()
    first = sum(COUNTS[world][:rank])
    rows = slice(first, first + COUNTS[world][rank])
    if dies:
        die(rank, rows, out)
    found: dict[Any, Any] = {"errors": {}}
    for way in WAYS:
        for name in CASES:
            q, p, labels, asked = part(name, rows)
            if CASES[name][1].get("exclude") == "list":
                asked["exclude"] = asked["exclude"].tolist()
            found[name, way] = step(name, q, p, labels, asked, gather=way)
        found["averaged", way] = averaged(rows, way)
    for name, call in wrong(rank).items():
        try:
            call()
            found["errors"][name] = "none"
        except (TypeError, ValueError) as error:
            found["errors"][name] = str(error)
    pair = dist.new_group([0, 1])  # a part of the processes
    if rank < 2:
        two = slice(2 * rank, 2 * rank + 2)
        q, p, labels, asked = part("grade_wasserstein", two)
        found["pair"] = step("grade_wasserstein", q, p, labels, asked, gather="ring", group=pair)
    torch.save(found, out / f"{rank}.pt")
    dist.destroy_process_group()


def die(rank: int, rows: slice, out: Path) -> None:
    """The last process leaves in the middle of a ring; what the others get is left at OUT/<rank>.txt."""
    q, p, labels, asked = part("grade_wasserstein", rows)
    if rank == dist.get_world_size() - 1:
        dist.batch_isend_irecv = lambda operations: os._exit(9)  # type: ignore[assignment]
    start = time.monotonic()
    try:
        step("grade_wasserstein", q, p, labels, asked, gather="ring")
        said = "none"
    except RuntimeError as error:
        said = f"{type(error).__name__}: {error}"
    (out / f"{rank}.txt").write_text(f"{time.monotonic() - start:.1f}\n{said}")
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--dies" in sys.argv)
