"""The search for launch configurations, with times made up: what it keeps, what it refuses, what it saves."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.stages import Context, tune
from benchmarks.gpu.store import Store
from wassrank import tuning


class MadeUp(tune.Trial):
    """A step is fastest with 8 rows and half the warps; 16 warps cannot be launched."""

    def __init__(self) -> None:
        self.tried: list[dict[str, int]] = []

    def times(self, values: Mapping[str, int]) -> list[float]:
        self.tried.append(dict(values))
        if values["max_warps"] == 16:
            raise RuntimeError("out of resources\nand more")
        return [1.0 + abs(values["max_rows"] - 4) + abs(values["max_warps"] - 4), 2.0]


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    table = tmp_path / "tuned.json"
    table.write_text("{}")
    monkeypatch.setattr(tuning, "TABLE", table)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "pretended")
    return Context(Store(tmp_path / "run"), time.monotonic() + 60, None, None)


def test_the_best_is_found_and_saved(context: Context) -> None:
    found = tune.search("triton", 90, context, 0.0, MadeUp())
    assert (found["after"]["max_rows"], found["after"]["max_warps"]) == (4, 4)
    assert {k: v for k, v in found["after"].items() if v != found["before"][k]} == {"max_rows": 4, "max_warps": 4}
    # 9 seconds of one problem became 1: a third of the time, by the mean of the logarithms over both.
    assert found["gain"] == pytest.approx(1 - (1 / 9) ** 0.5)
    saved = json.loads(tuning.TABLE.read_text())["sm_90"]
    assert saved["triton"] == {"max_rows": 4, "max_warps": 4}
    assert saved["measured"]["device"] == "pretended"
    lines = context.store.lines("tune")
    assert {"backend": "triton", "name": "max_warps", "value": 16, "error": "RuntimeError: out of resources"} in lines
    assert tuning.triton_tuning(90).max_rows == 4


def test_what_wins_nothing_is_not_saved(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MadeUp, "times", lambda self, values: [1.0, 1.0 - 0.001 * (values["max_rows"] == 4)])
    found = tune.search("triton", 90, context, 0.0, MadeUp())
    assert found["after"] == found["before"]
    assert "saved" not in found
    assert tuning.TABLE.read_text() == "{}"


def test_without_time_the_values_in_use_stay(context: Context) -> None:
    trial = MadeUp()
    found = tune.search("triton", 90, context, 1e9, trial)
    assert found["gain"] == 0
    assert len(trial.tried) == 1
