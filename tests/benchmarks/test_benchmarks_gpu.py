"""The GPU run's machinery, without a GPU: stages that fail, die, take too long, are cut and taken up again."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import pictures
from benchmarks.gpu import __main__ as command_line
from benchmarks.gpu.goals import GOALS, LARGEST, SMALL
from benchmarks.gpu.report import gather, page
from benchmarks.gpu.runner import Stage, execute, run_stages
from benchmarks.gpu.stages import tests as tests_stage
from benchmarks.gpu.stages import timings
from benchmarks.gpu.stages.end_to_end import train_one
from benchmarks.gpu.stages.sanitizer import verdict
from benchmarks.gpu.store import OtherRunError, Store, code_hash

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")

PROGRAMS = {
    "well": "store.finish('well', {'status': 'ok', 'answer': 42})",
    "dies": "print('CUDA error: an illegal memory access'); os._exit(3)",
    "hangs": "import time; time.sleep(60)",
    "second try": "n = len(store.lines('tries')); store.append('tries', {}); n or os._exit(1); "
    "store.finish('second try', {'status': 'ok'})",
}


def launch(store: Store) -> Any:
    def command(stage: Stage, seconds: float) -> list[str]:
        imports = "import os, time\nfrom pathlib import Path\nfrom benchmarks.gpu.store import Store"
        return [sys.executable, "-c", f"{imports}\nstore = Store(Path({str(store.folder)!r}))\n{PROGRAMS[stage.name]}"]

    return command


def run(store: Store, stages: list[Stage], seconds: float = 60.0) -> dict[str, dict[str, Any]]:
    ended: dict[str, dict[str, Any]] = {}
    run_stages(stages, store, seconds, launch(store), lambda stage, result: ended.update({stage.name: result}))
    return ended


def test_a_stage_that_dies_costs_itself_alone(tmp_path: Path) -> None:
    ended = run(Store(tmp_path), [Stage("dies", 1.0), Stage("well", 1.0)])
    assert ended["dies"]["status"] == "failed"
    assert "exit status 3: CUDA error: an illegal memory access" in ended["dies"]["reason"]
    assert ended["well"] | {"seconds": 0} == {"status": "ok", "answer": 42, "seconds": 0}


def test_a_stage_may_begin_again_after_it_died(tmp_path: Path) -> None:
    assert run(Store(tmp_path), [Stage("second try", 1.0, restarts=1)])["second try"]["status"] == "ok"


def test_what_has_ended_is_not_run_again_and_what_was_cut_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.finish("well", {"status": "cut"})
    store.finish("dies", {"status": "ok", "kept": True})
    ended = run(store, [Stage("well", 1.0), Stage("dies", 1.0)])
    assert ended["well"]["answer"] == 42
    assert ended["dies"]["kept"] is True


def test_a_stage_waits_for_those_it_needs(tmp_path: Path) -> None:
    ended = run(Store(tmp_path), [Stage("dies", 1.0), Stage("well", 1.0, needs=("dies",))])
    assert ended["well"]["status"] == "cut"
    assert ended["well"]["reason"] == "the stage dies: failed"


def test_without_time_nothing_is_begun(tmp_path: Path) -> None:
    assert run(Store(tmp_path), [Stage("well", 1.0)], seconds=1.0)["well"]["reason"] == "no time was left"


def test_a_process_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    status, _ = execute([sys.executable, "-c", PROGRAMS["hangs"]], tmp_path / "log", 1.0)
    assert status is None


def test_a_folder_keeps_to_one_run(tmp_path: Path) -> None:
    Store(tmp_path).claim({"code": "a", "device": "x"})
    Store(tmp_path).claim({"code": "a", "device": "x"})
    with pytest.raises(OtherRunError, match=r"code 'a' \(now 'b'\): name another --out"):
        Store(tmp_path).claim({"code": "b", "device": "x"})


def test_a_line_cut_in_half_is_no_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("timings", {"problem": "one"})
    with (store.stages / "timings.jsonl").open("a") as file:
        file.write('{"problem": "tw')
    assert store.lines("timings") == [{"problem": "one"}]
    store.append("timings", {"problem": "three"})
    assert store.lines("timings") == [{"problem": "one"}, {"problem": "three"}]


def test_code_hash_sees_every_source(tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cu").write_text("one")
    before = code_hash(tmp_path, ["csrc"])
    (tmp_path / "csrc" / "a.cu").write_text("two")
    assert code_hash(tmp_path, ["csrc"]) != before


@NO_GPU
def test_without_a_gpu_it_says_what_it_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert command_line.main(out) == 1
    said = capsys.readouterr().out
    assert "device: skipped (no GPU: torch" in said
    assert "timings: skipped (the stage device: skipped)" in said
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["timings"] == []
    assert all(goal["met"] is None for goal in results["goals"])
    assert "not measured" in (tmp_path / "run" / "report.md").read_text()
    assert command_line.main([*out, "--allow-no-gpu"]) == 0


TESTS = """
import os, pytest
@pytest.mark.gpu
def test_well(): pass
@pytest.mark.gpu
def test_wrong(): assert 1 == 2
@pytest.mark.gpu
def test_takes_the_process_with_it(): os._exit(5)
@pytest.mark.gpu
def test_after(): pass
@pytest.mark.gpu
def test_skips(): pytest.skip("no such thing")
"""


def test_every_test_is_recorded_and_a_fatal_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_needing_more.py").write_text("import no_such_package")
    (tmp_path / "test_broken.py").write_text("1 / 0")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    store = Store(tmp_path / "run")
    program = textwrap.dedent(f"""
        import sys, time, pytest
        from pathlib import Path
        from benchmarks.gpu.stages.tests import Recorder
        from benchmarks.gpu.store import Store
        pytest.main(["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", {str(tmp_path)!r}],
                    plugins=[Recorder(Store(Path({str(store.folder)!r})), time.monotonic() + 60)])
    """)
    statuses = [execute([sys.executable, "-c", program], tmp_path / "log", 60.0)[0] for _ in range(2)]
    assert statuses == [5, 0]
    found = tests_stage.summary(store)
    assert found["counts"] == {"passed": 2, "failed": 3, "skipped": 2}
    errors = {failure["test"].split("::")[-1]: failure["error"] for failure in found["failures"]}
    assert "ZeroDivisionError" in next(error for test, error in errors.items() if "test_broken" in test)
    assert errors["test_wrong"] == "assert 1 == 2"
    assert "ended the process" in errors["test_takes_the_process_with_it"]
    assert found["status"] == "failed"


def test_a_contender_that_took_its_process_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("timings", {"problem": "p", "began": "F.cross_entropy"})
    timings.note_death(store)
    timings.note_death(store)
    assert [line for line in store.lines("timings") if "died" in line] == [{"problem": "p", "died": "F.cross_entropy"}]


def test_a_sanitizer_that_did_not_run_found_nothing() -> None:
    ended = "wassrank: all calls ended\n========= "
    assert verdict(0, f"{ended}ERROR SUMMARY: 0 errors") == {"ran": True, "errors": False, "summary": "0 errors"}
    assert verdict(9, f"{ended}RACECHECK SUMMARY: 2 hazards displayed")["errors"] is True
    assert verdict(0, "Device not supported") == {"ran": False, "reason": "Device not supported"}


def synthetic(store: Store) -> None:
    """Stages as a GPU would leave them, with round figures."""

    def figures(device: float, wall: float) -> dict[str, Any]:
        us = {"p20": device, "p50": device, "p80": device}
        return {
            "device_us": us,
            "wall_us": us | {"p50": wall},
            "host_us": us,
            "gb_per_s": 1.0,
            "launches": 3,
            "extra_bytes": 1 << 20,
        }

    store.finish("device", {"status": "ok", "seconds": 1, "device": {"gpu": "Pretended 1", "torch": "2"}})
    store.finish(
        "ceilings", {"status": "ok", "copy_gb_per_s": 1000.0, "gemm_tflop_per_s": {"float32": 50.0, "bfloat16": 500.0}}
    )
    for problem, size, times in (
        (
            LARGEST,
            10**9,
            {"wassrank native": 1250.0, "wassrank triton": 1000.0, "torch.compile of plain torch": 3000.0},
        ),
        (SMALL, 10**6, {"wassrank native": 20.0, "F.cross_entropy": 40.0}),
    ):
        line = {name: figures(t, 1.5 * t) for name, t in times.items()} | {"plain torch": {"error": "out of memory"}}
        store.append("timings", {"problem": problem, "work": {"bytes": size, "flops": 10 * size}, "figures": line})
    store.append("tests", {"test": "t.py::a", "outcome": "failed", "error": "x | y"})
    way = {"device": "cuda", "Q": 64, "batch": "temperature 1", "way": "products, float32", "seconds": 0.002}
    store.finish("polar_factor", {"status": "ok", "rows": [way | {"loss_error": 1e-9, "gradient_error": 1e-7}]})
    row = {"loss": "p=1", "backend": "native", "losses": [2.0, 1.0], "seconds_per_step": 0.1, "loss_share": 0.01}
    store.finish(
        "end_to_end",
        {"status": "ok", "rows": [row | {"reload_difference": 0.0}], "encoder": "random", "generator": "none"},
    )
    store.finish(
        "sanitizer", {"status": "ok", "tools": {"memcheck": {"ran": True, "errors": False, "summary": "0 errors"}}}
    )
    tuned = {"before": {"a": 1}, "after": {"a": 2}, "gain": 0.1, "saved": {"a": 2}}
    store.finish("tune", {"status": "ok", "tuned": {"triton": tuned, "native": {"error": "no"}}})


def test_goals_report_and_pictures_of_a_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    synthetic(store)
    stages = ("device", "build", "ceilings", "tests", "timings", "polar_factor", "end_to_end", "sanitizer", "tune")
    results = gather(store, stages)
    values = {goal["goal"]: goal for goal in results["goals"]}
    assert len(values) == len(GOALS)
    share, compiled, small, wall, *later = values.values()
    assert (share["value"], share["met"], share["by"]) == (pytest.approx(1.0), True, "wassrank triton")
    assert (compiled["value"], compiled["met"]) == (pytest.approx(3.0), False)
    assert (small["value"], small["met"], small["by"]) == (pytest.approx(20.0), True, "wassrank native")
    assert (wall["value"], wall["met"]) == (pytest.approx(0.5), True)
    assert all(goal["met"] is None for goal in later)

    text = page(results)
    assert "| level path, 64×256: on the device | ≤ 30.00 µs | 20.00 µs | met | wassrank native |" in text
    assert "| build | not run | – | no time was left |" in text
    assert "| t.py::a | x \\| y |" in text
    assert "| plain torch | out of memory |" in text
    assert "floor 1,000.0 µs" in text
    assert "| 64 | temperature 1 | products, float32 | 2.00 ms | 1e-09 | 1e-07 |" in text
    assert "saved: {'a': 2}" in text

    drawn = pictures.draw(json.loads(json.dumps(results)), tmp_path)
    assert [path.name for path in drawn] == ["roofline.png", "scaling.png"]
    assert all(path.stat().st_size > 10_000 for path in drawn)


def test_the_trainer_stage_trains_saves_and_loads_back(tmp_path: Path) -> None:
    from training.losses import LossOptions

    row = train_one(LossOptions(temperature=0.05), "cpu", Store(tmp_path), None, steps=2, batch=4)
    assert row["backend"] == "native"
    assert len(row["losses"]) == 2
    assert "error" not in row
    assert row["reload_difference"] < 1e-5
    assert not (tmp_path / "model").exists()
