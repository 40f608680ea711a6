"""The trainer's benchmark: what it measures is what its goals are about, and each part keeps its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine, retrieval, trainer_overhead, training


def results(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))["parts"]


def test_a_steps_parts_make_up_the_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("BATCH", 2), ("ACCUMULATED", 2), ("GROUP", 2), ("LENGTH", 8)):
        monkeypatch.setattr(trainer_overhead, name, value)
    monkeypatch.setattr(machine, "THREADS", 1)  # on a busy machine two wait for each other
    out = tmp_path / "x.json"
    training.main(["overhead", "--losses", "info_nce", "combined_loss from embeddings", "--out", str(out)])
    part = results(out)["overhead"]
    assert [row["loss"] for row in part["rows"]] == ["info_nce", "combined_loss from embeddings"]
    for row, goal in zip(part["rows"], part["goals"], strict=True):
        inside = row["encoder_ms"] + row["batch_ms"] + row["optimizer_ms"] + row["loss_share"] * row["step_ms"]
        assert 0 < inside < row["step_ms"]
        assert row["overhead"] == pytest.approx(1 - row["encoder_ms"] / row["step_ms"], abs=1e-3)
        assert goal["value"] == row["overhead"]
    assert part["settings"]["accumulated"] == 2


def test_a_part_keeps_its_figures_when_another_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "ROUNDS", 2)
    out = tmp_path / "x.json"
    training.main(["search", "--queries", "8", "--passages", "50", "--k", "5", "--out", str(out)])
    found = results(out)["search"]
    training.main(["encoding", "--texts", "2", "--out", str(out)])
    assert results(out)["search"] == found
    (row,) = found["rows"]
    assert (row["queries"], row["passages"], row["k"]) == (8, 50, 5)
    assert results(out)["encoding"]["rows"][0]["texts"] == 2


def test_a_missed_goal_is_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, status in ((1e9, 0), (0.0, 1)):
        monkeypatch.setattr(training, "SEARCH", limit)
        command = ["search", "--queries", "8", "--passages", "50", "--k", "5", "--out", str(tmp_path / "x.json")]
        assert training.main(command) == status
        (goal,) = results(tmp_path / "x.json")["search"]["goals"]
        assert goal["met"] is (status == 0)


@pytest.mark.full
def test_memory_is_the_processes_own_and_not_that_of_who_started_it(tmp_path: Path) -> None:
    out, here = tmp_path / "x.json", Path(__file__).parents[2]
    script = (
        "import sys, numpy\n"
        "from benchmarks import training\n"
        "large = numpy.ones(100_000_000)\n"  # 763 MiB, resident
        "sys.exit(training.main(sys.argv[1:]))\n"
    )
    command = ["corpus", "--corpus-passages", "400", "--scratch", str(tmp_path), "--out", str(out)]
    subprocess.run([sys.executable, "-c", script, *command], cwd=here, check=True, stdout=subprocess.DEVNULL)
    part = results(out)["corpus"]
    assert part["passages"] == 400
    assert [row["name"] for row in part["rows"]] == [
        "folder, no index yet",
        "folder",
        "folder again",
        "YAML of two sources",
    ]
    assert all(100 < row["peak_mib"] < 763 for row in part["rows"])
    assert list(tmp_path.iterdir()) == [out]
