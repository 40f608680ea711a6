"""`python -m benchmarks.polar_factor`: digits and time of the ways to a polar factor, for batches of the batch-Gaussian
loss, on the CPU and, where there is one, a GPU; kept in benchmarks/results/polar-factor-<date>.json. From that and the
newest CPU results it writes docs/polar_factor.md and draws its picture. With --page nothing is measured; with --check
nothing is written either, and it fails if the page does not hold what the JSON says.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.stored import RESULTS, newest, stale
from wassrank.gaussian.polar import PRODUCTS_IN_FLOAT64
from wassrank.gaussian.polar_iteration import LOWEST, polar_by_products, steps
from wassrank.gaussian.split_svd import norm_and_factor
from wassrank.reference.gaussian_wasserstein import ROUNDING, norm
from wassrank.reference.nuclear_norm import finite_svd, norm_and_polar_factor

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "polar_factor.md"
PICTURE = ROOT / "docs" / "gaussian_wasserstein.png"

K = 4
SIZES = (64, 256, 512)
# Scores of unit variance at some temperatures, or so near the labels.
BATCHES: dict[str, dict[str, float]] = {
    "temperature 1": {"temperature": 1.0},
    "temperature 0.1": {"temperature": 0.1},
    "temperature 0.02": {"temperature": 0.02},
    "within 0.01 of the labels": {"near": 0.01},
}

Ways = dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]
WAYS: Ways = {
    "SVD": lambda A, noise: norm_and_polar_factor(finite_svd(A), noise, 0.0),
    "split SVD": lambda A, noise: norm_and_factor(A, noise, 0.0),
    "products, float64": lambda A, noise: polar_by_products(A, noise, torch.float64),
    "products, float32": lambda A, noise: polar_by_products(A, noise, torch.float32),
}
ON_GPU = [name for name in WAYS if name != "split SVD"]


class Batch:
    """P and T of a batch, and the loss and its gradient with respect to the scores as functions of norm and factor."""

    def __init__(self, Q: int, temperature: float = 1.0, near: float | None = None) -> None:
        generator = torch.Generator().manual_seed(Q)
        labels = torch.block_diag(*torch.randint(0, 4, (Q, K), generator=generator).double())
        scores = torch.randn(Q, Q * K, generator=generator, dtype=torch.float64)
        self.P = ((scores if near is None else labels + near * scores) / temperature).softmax(1)
        T = labels.softmax(1)
        self.f = 1 / (Q - 1)
        self.apart = self.P.mean(0) - T.mean(0)
        self.E_P, self.E_T = self.P - self.P.mean(0), T - T.mean(0)
        self.A = self.f * self.E_P @ self.E_T.T
        self.noise = ROUNDING * self.f * (norm(self.P) * norm(self.E_T) + norm(self.E_P) * norm(T))

    def loss(self, overlap: Tensor) -> float:
        traces = self.f * (self.E_P.square().sum() + self.E_T.square().sum())
        return float(self.apart.dot(self.apart) + traces - 2 * overlap.cpu())

    def gradient(self, W: Tensor) -> Tensor:
        G = 2 * self.f * (self.E_P - W.cpu() @ self.E_T) + 2 / len(self.P) * self.apart
        gradient: Tensor = self.P * (G - (self.P * G).sum(1, keepdim=True))
        return gradient


def measure(devices: list[str]) -> list[dict[str, Any]]:
    torch.set_num_threads(machine.THREADS)
    rows = []
    for Q in SIZES:
        for name, options in BATCHES.items():
            batch = Batch(Q, **options)
            overlap, W = WAYS["SVD"](batch.A, batch.noise)
            want, want_gradient = batch.loss(overlap), batch.gradient(W)
            for device in devices:
                A, noise = batch.A.to(device), batch.noise.to(device)
                for way in WAYS if device == "cpu" else ON_GPU:
                    overlap, W = WAYS[way](A, noise)
                    off = (batch.gradient(W) - want_gradient).norm() / want_gradient.norm()
                    rows.append(
                        {
                            "device": device,
                            "Q": Q,
                            "batch": name,
                            "way": way,
                            "loss_error": abs(batch.loss(overlap) - want) / want,
                            "gradient_error": float(off),
                            "seconds": seconds(lambda: WAYS[way](A, noise), device),  # noqa: B023
                        }
                    )
    return rows


def seconds(run: Callable[[], object], device: str) -> float:
    """Median of some, about half a second's worth."""
    times: list[float] = []
    until = time.perf_counter() + 0.5
    while len(times) < 5 or time.perf_counter() < until:
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def page() -> str:
    path, result = newest("polar-factor-*.json")
    where = result["machine"]
    n64, n32 = (len(steps(dtype)) for dtype in (torch.float64, torch.float32))
    lines = [
        "# The polar factor of the batch-Gaussian loss",
        "",
        "Written by `python -m benchmarks.polar_factor`; nothing here is typed.",
        "",
        "`gaussian_wasserstein` needs the sum of A's singular values and its polar factor W, A [Q, Q] the covariance "
        "of predictions and targets ([derivation](../wassrank/reference/gaussian_wasserstein.py)). Four ways to them: "
        "LAPACK's SVD; [one that takes the upper part from AᵀA](../wassrank/gaussian/split_svd.py), which the CPU "
        f"takes; and [products of matrices alone](../wassrank/gaussian/polar_iteration.py), {3 * n64} of them in "
        f"float64 or {3 * n32} in float32 and two in float64, which GPUs take: float64 up to Q = "
        f"{PRODUCTS_IN_FLOAT64} and for float64 scores, else float32, where singular values below "
        f"{LOWEST[torch.float32]:g} ‖A‖ count as zero.",
        "",
        "Errors are relative, of the loss and of its gradient with respect to the scores (‖·‖/‖·‖), against the SVD's; "
        f"everything but A's decomposition is in float64. {K} passages a query, random grades 0 … 3, scores of unit "
        "variance at some temperatures, or close to the labels: there the loss is a small difference of large traces. "
        "What float32 products may miss: loss 1e-5, gradient 1e-3.",
    ]
    for device, title in (("cpu", f"{where['threads']} threads of {where['cpu']}"), ("cuda", where.get("gpu", ""))):
        of = [row for row in result["rows"] if row["device"] == device]
        if of:
            lines += ["", f"## {title}, torch {where['torch']}, {where['date']}", *table(of)]
    if not any(row["device"] == "cuda" for row in result["rows"]):
        lines += ["", "No GPU has been measured: that products win there is reasoned from their operations, not seen."]
    cpu = newest("cpu-*.json")[0]
    lines += [
        "",
        "## The whole loss",
        "",
        f"![time of a step against Q and N]({PICTURE.name})",
        "",
        f"Forward and backward on the CPU, from [{cpu.name}](../benchmarks/results/{cpu.name}).",
        f"Tables from [{path.name}](../benchmarks/results/{path.name}).",
        "",
    ]
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["", "| Q | batch | way | time | loss | gradient |", "|---:|---|---|---:|---:|---:|"]
    for row in rows:
        digits = " | ".join("–" if row["way"] == "SVD" else f"{row[f'{of}_error']:.0e}" for of in ("loss", "gradient"))
        lines.append(f"| {row['Q']} | {row['batch']} | {row['way']} | {row['seconds'] * 1e3:.2f} ms | {digits} |")
    return lines


def draw() -> None:
    """Time of a step against Q at N = 4Q, and against N at Q = 64."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from benchmarks.pictures import COLOURS, MARKS

    _, result = newest("cpu-*.json")
    rows = [r for r in result["rows"] if r["loss"] == "gaussian_wasserstein" and r["labels"] == "in_batch"]
    canvas, both = pyplot.subplots(1, 2, figsize=(11, 4.5), dpi=100, sharey=True)
    against_Q = [r for r in rows if r["shape"][1] == 4 * r["shape"][0]]
    against_N = [r for r in rows if r["shape"][0] == 64]
    panels = (("Q, with N = 4Q", against_Q, 0), ("N, with Q = 64", against_N, 1))
    for axes, (label, of, axis) in zip(both, panels, strict=True):
        lines = {"wassrank": [(r["shape"][axis], r["seconds"]["p50"]) for r in of]}
        for r in of:
            lines.setdefault(r["rival"], []).append((r["shape"][axis], r["rival_seconds"]["p50"]))
        for i, (name, found) in enumerate(lines.items()):
            fastest = {x: min(t for at, t in found if at == x) for x, _ in found}  # of those measured more than once
            x, y = zip(*sorted(fastest.items()), strict=True)
            axes.plot(x, [1e3 * t for t in y], MARKS[i] + "-", color=COLOURS[i], label=name)
        axes.set(xscale="log", yscale="log", xlabel=label)
        sizes = sorted({r["shape"][axis] for r in of})
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.25, which="both")
        axes.legend(fontsize=8)
    both[0].set(ylabel="ms, forward and backward")
    where = result["machine"]
    canvas.suptitle(f"gaussian_wasserstein: {where['threads']} threads of {where['cpu']}, {where['date']}", fontsize=10)
    canvas.tight_layout()
    canvas.savefig(PICTURE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.polar_factor", description=__doc__)
    parser.add_argument("--page", action="store_true", help="from stored results")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        return stale(PAGE, page(), "benchmarks.polar_factor")
    if not options.page:
        gpu = torch.cuda.is_available()
        where = machine.describe() | ({"gpu": torch.cuda.get_device_name()} if gpu else {})
        rows = measure(["cpu", "cuda"] if gpu else ["cpu"])
        out = RESULTS / f"polar-factor-{where['date']}.json"
        out.write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    draw()
    return 0


if __name__ == "__main__":
    sys.exit(main())
