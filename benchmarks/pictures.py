"""`python -m benchmarks.pictures RESULTS.json --out DIR`: roofline and scaling of a stored GPU run, as PNG."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

COLOURS = ("#1b6ca8", "#d1495b", "#6c757d", "#edae49", "#66a182", "#8d6a9f")
MARKS = "os^Dvp"


def points(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One a problem and contender that was timed."""
    return [
        {"problem": line["problem"], "bytes": line["work"]["bytes"], "flops": line["work"]["flops"], "name": name}
        | {"seconds": figures["device_us"]["p50"] * 1e-6}
        for line in results["timings"]
        for name, figures in line["figures"].items()
        if "device_us" in figures
    ]


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """roofline.png and scaling.png; nothing of a run that timed nothing."""
    found = points(results)
    if not found or "copy_gb_per_s" not in results.get("ceilings", {}):
        return []
    names = list(dict.fromkeys(p["name"] for p in found))
    style = {name: (COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]) for i, name in enumerate(names)}
    return [roofline(results, found, style, folder), scaling(results, found, style, folder)]


def figure(results: dict[str, Any], title: str) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    canvas, axes = pyplot.subplots(figsize=(9, 6), dpi=110)
    axes.set(xscale="log", yscale="log", title=f"{title}: {results['machine']['gpu']}, {results['machine']['date']}")
    axes.grid(alpha=0.25, which="both")
    return canvas, axes


def save(canvas: Any, axes: Any, path: Path) -> Path:
    axes.legend(fontsize=8)
    canvas.tight_layout()
    canvas.savefig(path)
    return path


def roofline(results: dict[str, Any], found: list[dict[str, Any]], style: dict[str, Any], folder: Path) -> Path:
    """Useful operations a second over operations a byte, under the measured copy rate and the float32 rate."""
    canvas, axes = figure(results, "roofline")
    rate = results["ceilings"]["copy_gb_per_s"] / 1e3
    peak = results["ceilings"]["gemm_tflop_per_s"]["float32"]
    intensities = [p["flops"] / p["bytes"] for p in found]
    line = [min(intensities) / 4 * 2**i for i in range(1 + math.ceil(math.log2(16 * peak / rate / min(intensities))))]
    roof = [min(peak, rate * x) for x in line]
    axes.plot(line, roof, color="black", label=f"copy {1e3 * rate:,.0f} GB/s, float32 {peak:,.0f} TFLOP/s")
    for name, (colour, mark) in style.items():
        of = [p for p in found if p["name"] == name]
        x, y = [p["flops"] / p["bytes"] for p in of], [p["flops"] / p["seconds"] / 1e12 for p in of]
        axes.plot(x, y, mark, color=colour, alpha=0.8, label=name)
    axes.set(xlabel="operations a byte, of what a step must do", ylabel="TFLOP/s, of what a step must do")
    return save(canvas, axes, folder / "roofline.png")


def scaling(results: dict[str, Any], found: list[dict[str, Any]], style: dict[str, Any], folder: Path) -> Path:
    """Device time of a step over the bytes it must move."""
    canvas, axes = figure(results, "a step's device time")
    for name, (colour, mark) in style.items():
        of = sorted((p["bytes"], p["seconds"] * 1e6) for p in found if p["name"] == name)
        axes.plot([b / 1e6 for b, _ in of], [t for _, t in of], mark, color=colour, alpha=0.8, label=name)
    sizes = sorted({p["bytes"] for p in found})
    floor = [b / results["ceilings"]["copy_gb_per_s"] / 1e3 for b in sizes]
    axes.plot([b / 1e6 for b in sizes], floor, color="black", label="copying as many bytes")
    axes.set(xlabel="MB a step must move", ylabel="µs")
    return save(canvas, axes, folder / "scaling.png")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    drawn = draw(json.loads(options.results.read_text(encoding="utf-8")), options.out)
    print("\n".join(map(str, drawn)) if drawn else f"{options.results} holds no timings: nothing to draw")
    return 0


if __name__ == "__main__":
    sys.exit(main())
