"""A run's results as one JSON and one readable page, from what its stages have left on disk so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.goals import GOALS
from benchmarks.gpu.stages.tests import summary
from benchmarks.gpu.store import Store
from benchmarks.machine import today
from benchmarks.polar_factor import table as polar_table

STAGE_KEYS = {"status", "reason", "seconds"}


def gather(store: Store, stages: Sequence[str]) -> dict[str, Any]:
    """results.json: device, versions, date; how each stage ended; every figure."""
    ended = {name: store.stage(name) or {"status": "not run", "reason": "no time was left"} for name in stages}
    results: dict[str, Any] = {
        "machine": {"date": today()} | ended.get("device", {}).get("device", {}),
        "stages": {name: {k: v for k, v in result.items() if k in STAGE_KEYS} for name, result in ended.items()},
    }
    for name in ("build", "ceilings", "polar_factor", "end_to_end", "sanitizer", "tune"):
        results[name] = {k: v for k, v in ended.get(name, {}).items() if k not in STAGE_KEYS}
    tested = summary(store)
    results["tests"] = {"counts": tested["counts"], "failures": tested["failures"]}
    results["timings"] = [line for line in store.lines("timings") if "figures" in line]
    results["goals"] = [goal.check(results) for goal in GOALS]
    return results


def page(results: dict[str, Any]) -> str:
    """report.md."""
    machine = results["machine"]
    title = machine.get("gpu", "no GPU")
    about = ", ".join(
        f"{k} {v}" for k, v in machine.items() if k in ("driver", "nvcc", "torch", "cuda", "python") and v
    )
    parts = [f"# wassrank on {title}, {machine['date']}", about, "## Goals", goals_table(results["goals"])]
    parts += ["## Stages", stages_table(results["stages"])]
    failures = results["tests"]["failures"]
    if results["tests"]["counts"]:
        counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(results["tests"]["counts"].items()))
        parts += ["## Tests", counts]
        parts += [table(["test", "error"], [[f["test"], f["error"]] for f in failures])] if failures else []
    if results["ceilings"]:
        rates = results["ceilings"]["gemm_tflop_per_s"]
        parts += [
            "## The device's measured rates",
            f"Copy {results['ceilings']['copy_gb_per_s']:,.0f} GB/s (read + written); matrix products "
            + ", ".join(f"{name} {rate:,.0f} TFLOP/s" for name, rate in rates.items())
            + ".",
        ]
    if results["timings"]:
        parts += ["## Timings of a step, forward + backward", timings_tables(results)]
    if "rows" in results["polar_factor"]:
        parts += ["## The batch-Gaussian loss's polar factor", "\n".join(polar_table(results["polar_factor"]["rows"]))]
    if "rows" in results["end_to_end"]:
        parts += ["## Training", training_table(results["end_to_end"])]
    if "tools" in results["sanitizer"]:
        parts += ["## compute-sanitizer", sanitizer_table(results["sanitizer"]["tools"])]
    if "tuned" in results["tune"]:
        parts += ["## Tuning", tuning_lines(results["tune"]["tuned"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def goals_table(goals: Sequence[dict[str, Any]]) -> str:
    rows = []
    for goal in goals:
        bound = f"{'≥' if goal['at_least'] else '≤'} {amount(goal['bound'], goal['unit'])}"
        value = "not measured" if goal["value"] is None else amount(goal["value"], goal["unit"])
        met = {None: "–", True: "met", False: "missed"}[goal["met"]]
        rows.append([goal["goal"], bound, value, met, goal["by"]])
    return table(["goal", "wanted", "measured", "", "by"], rows)


def amount(value: float, unit: str) -> str:
    return f"{value:.0%}" if unit == "" else f"{value:,.2f} {unit}"


def stages_table(stages: dict[str, dict[str, Any]]) -> str:
    rows = [[name, s["status"], s.get("seconds", "–"), s.get("reason", "")] for name, s in stages.items()]
    return table(["stage", "", "seconds", "why"], rows)


def timings_tables(results: dict[str, Any]) -> str:
    copy = results["ceilings"].get("copy_gb_per_s")
    parts = [
        "Device time per step (median, p20 to p80 in the JSON); the floor is what copying the step's bytes would take "
        "at the measured rate; wall time is a Python loop's; memory is the peak beyond inputs and gradients."
    ]
    for line in results["timings"]:
        work = line["work"]
        floor = f"; floor {work['bytes'] / copy / 1e3:,.1f} µs" if copy else ""
        parts.append(f"### {line['problem']}\n\n{work['bytes'] / 1e6:,.1f} MB, {work['flops'] / 1e9:,.2f} GFLOP{floor}")
        rows = []
        for name, f in line["figures"].items():
            if "device_us" not in f:
                rows.append([name, f.get("error", "not timed"), *[""] * 6])
                continue
            share = f"{f['gb_per_s'] / copy:.0%}" if copy else "–"
            rows.append(
                [
                    name,
                    f"{f['device_us']['p50']:,.1f} µs",
                    f"{f['gb_per_s']:,.0f} GB/s",
                    share,
                    f"{f['wall_us']['p50']:,.1f} µs",
                    f"{f['host_us']['p50']:,.1f} µs",
                    "–" if f["launches"] is None else f["launches"],
                    f"{f['extra_bytes'] / 2**20:,.1f} MiB",
                ]
            )
        parts.append(table(["", "device", "useful", "of copy", "wall", "host", "launches", "memory"], rows))
    return "\n\n".join(parts)


def training_table(found: dict[str, Any]) -> str:
    rows = [
        [row["loss"], row["error"], *[""] * 4]
        if "error" in row
        else [
            row["loss"],
            row["backend"],
            f"{row['losses'][0]:.4f} → {row['losses'][-1]:.4f}",
            f"{row['seconds_per_step'] * 1e3:.1f} ms",
            f"{row['loss_share']:.2%}",
            f"{row['reload_difference']:.0e}",
        ]
        for row in found["rows"]
    ]
    head = table(["loss", "backend", "loss, first to last", "step", "of it in the loss", "reloaded differs by"], rows)
    return f"Encoder: {found['encoder']}. Generator: {found['generator']}.\n\n{head}"


def sanitizer_table(tools: dict[str, Any]) -> str:
    return table(["tool", "found"], [[tool, r["summary"] if r["ran"] else r["reason"]] for tool, r in tools.items()])


def tuning_lines(tuned: dict[str, Any]) -> str:
    lines = []
    for backend, result in tuned.items():
        if "error" in result:
            lines.append(f"- {backend}: {result['error']}")
            continue
        changed = {k: v for k, v in result["after"].items() if v != result["before"][k]}
        kept = f"saved: {changed}" if "saved" in result else "nothing saved"
        lines.append(f"- {backend}: {result['gain']:+.1%} a step by the logarithms' mean; {kept}")
    return "\n".join(lines)
