"""What the library means to reach on a GPU, and whether a run's figures reach it. Reported, not asserted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]
FUSED = ("wassrank native", "wassrank triton")


@dataclass(frozen=True)
class Goal:
    text: str
    unit: str
    bound: float
    at_least: bool
    value: Callable[[Results], tuple[float, str] | None]  # and by whom; None: not measured

    def check(self, results: Results) -> dict[str, Any]:
        found = self.value(results)
        row: dict[str, Any] = {"goal": self.text, "bound": self.bound, "at_least": self.at_least, "unit": self.unit}
        if found is None:
            return row | {"value": None, "met": None, "by": ""}
        value, by = found
        return row | {"value": value, "met": value >= self.bound if self.at_least else value <= self.bound, "by": by}


def figures(results: Results, problem: str) -> dict[str, Any]:
    """Of each contender that was timed on the problem."""
    for line in results.get("timings", []):
        if line["problem"] == problem:
            return {name: f for name, f in line["figures"].items() if "device_us" in f} | {"work": line["work"]}
    return {}


def fastest(results: Results, problem: str, key: str = "device_us") -> tuple[float, str] | None:
    """Seconds of our fastest backend."""
    found = figures(results, problem)
    times = [(found[name][key]["p50"] * 1e-6, name) for name in FUSED if name in found]
    return min(times) if times else None


def copy_share(problem: str) -> Callable[[Results], tuple[float, str] | None]:
    """The bytes a step must move, over its time, over the measured copy rate."""

    def value(results: Results) -> tuple[float, str] | None:
        ours, rate = fastest(results, problem), results.get("ceilings", {}).get("copy_gb_per_s")
        if ours is None or rate is None:
            return None
        return figures(results, problem)["work"]["bytes"] / ours[0] / 1e9 / rate, ours[1]

    return value


def gemm_share(problem: str) -> Callable[[Results], tuple[float, str] | None]:
    """The operations a step does, recomputation included, over its time, over the measured rate of matrix products."""

    def value(results: Results) -> tuple[float, str] | None:
        ours, rates = fastest(results, problem), results.get("ceilings", {}).get("gemm_tflop_per_s", {})
        if ours is None or "bfloat16" not in rates:
            return None
        return figures(results, problem)["work"]["flops"] / ours[0] / 1e12 / rates["bfloat16"], ours[1]

    return value


def times_faster(problem: str, rival: str) -> Callable[[Results], tuple[float, str] | None]:
    def value(results: Results) -> tuple[float, str] | None:
        ours, theirs = fastest(results, problem), figures(results, problem).get(rival)
        return None if ours is None or theirs is None else (theirs["device_us"]["p50"] * 1e-6 / ours[0], ours[1])

    return value


def device_us(problem: str) -> Callable[[Results], tuple[float, str] | None]:
    def value(results: Results) -> tuple[float, str] | None:
        ours = fastest(results, problem)
        return None if ours is None else (ours[0] * 1e6, ours[1])

    return value


def wall_ratio(problem: str, rival: str) -> Callable[[Results], tuple[float, str] | None]:
    def value(results: Results) -> tuple[float, str] | None:
        ours, theirs = fastest(results, problem, "wall_us"), figures(results, problem).get(rival)
        return None if ours is None or theirs is None else (ours[0] * 1e6 / theirs["wall_us"]["p50"], ours[1])

    return value


LARGEST = "grade_wasserstein 4096x32768 in_batch bfloat16 p=1"
SMALL = "grade_wasserstein 64x256 in_batch float32 p=1"
GOALS = (
    Goal("level path, 4096×32768 bfloat16: of copy bandwidth", "", 0.85, True, copy_share(LARGEST)),
    Goal(
        "level path, 4096×32768 bfloat16: faster than torch.compile of plain torch",
        "×",
        4.0,
        True,
        times_faster(LARGEST, "torch.compile of plain torch"),
    ),
    Goal("level path, 64×256: on the device", "µs", 30.0, False, device_us(SMALL)),
    Goal("level path, 64×256: F.cross_entropy's wall time", "×", 1.3, False, wall_ratio(SMALL, "F.cross_entropy")),
    # Their losses' benchmarks bring the problems these look for.
    Goal(
        "ws2, 64×448: faster than the published one",
        "×",
        50.0,
        True,
        times_faster("gaussian_wasserstein 64x448 in_batch float32 p=2", "published algorithm"),
    ),
    Goal(
        "from embeddings, 4096×32768×768 bfloat16: of the rate of matrix products",
        "",
        0.55,
        True,
        gemm_share("grade_wasserstein_from_embeddings 4096x32768x768 in_batch bfloat16 p=1"),
    ),
    Goal(
        "wasserstein_1d, 1024×1024: faster than ot.wasserstein_1d",
        "×",
        100.0,
        True,
        times_faster("wasserstein_1d 1024x1024 weighted float32 p=1", "ot.wasserstein_1d"),
    ),
)
