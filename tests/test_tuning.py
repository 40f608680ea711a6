"""The tuning table: what is looked up, what is refused, and that it reaches both backends' kernels."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from wassrank import tuning
from wassrank.tuning import TRITON_ALLOWED, TritonTuning

MEASURED = {"device": "NVIDIA H200", "date": "2026-11-23", "torch": "2.13.0"}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "tuned.json"
    path.write_text("{}")
    monkeypatch.setattr(tuning, "TABLE", path)
    tuning._forget()
    yield path
    tuning._forget()


def test_the_packages_table_is_sound() -> None:
    assert tuning.TABLE.exists()
    for architecture in json.loads(tuning.TABLE.read_text(encoding="utf-8")):
        tuning.triton_tuning(int(architecture.removeprefix("sm_")))


def test_defaults_where_nothing_was_measured(table: Path) -> None:
    assert tuning.tuning(90, "triton") == tuning.tuning(90, "native") == {}
    assert tuning.triton_tuning(90) == tuning.triton_tuning(None) == TritonTuning()
    assert tuning.capability(torch.device("cpu")) is tuning.capability(torch.device("meta")) is None


def test_every_default_is_allowed() -> None:
    for knob in fields(TritonTuning):
        assert knob.default in TRITON_ALLOWED[knob.name]


def test_what_is_saved_is_looked_up_for_its_architecture_alone(table: Path) -> None:
    tuning.save(90, "triton", {"max_warps": 4}, MEASURED)
    tuning.save(90, "native", {"max_team": 256}, MEASURED)
    tuning.save(100, "triton", {"max_rows": 2}, MEASURED)
    assert json.loads(table.read_text()) == {
        "sm_90": {"triton": {"max_warps": 4}, "native": {"max_team": 256}, "measured": MEASURED},
        "sm_100": {"triton": {"max_rows": 2}, "measured": MEASURED},
    }
    assert tuning.triton_tuning(90) == TritonTuning(max_warps=4)
    assert tuning.triton_tuning(100) == TritonTuning(max_rows=2)
    assert tuning.triton_tuning(80) == tuning.triton_tuning(None) == TritonTuning()
    assert tuning.tuning(90, "native") == {"max_team": 256}
    assert list(table.parent.iterdir()) == [table]


def test_a_refused_save_leaves_the_table_as_it_was(table: Path) -> None:
    tuning.save(90, "triton", {"max_warps": 4}, MEASURED)
    before = table.read_text()
    with pytest.raises(ValueError, match=r"save\(sm_90, 'triton'\): triton's max_warps must be one of .*, got 3"):
        tuning.save(90, "triton", {"max_warps": 3}, MEASURED)
    assert table.read_text() == before


def test_override_holds_for_its_block_and_saves_nothing(table: Path) -> None:
    tuning.save(90, "triton", {"max_warps": 4}, MEASURED)
    with tuning.override("triton", {"max_rows": 2}):
        assert tuning.triton_tuning(90) == tuning.triton_tuning(None) == TritonTuning(max_rows=2)
        with tuning.override("triton", {}):
            assert tuning.triton_tuning(90) == TritonTuning()
        assert tuning.triton_tuning(90) == TritonTuning(max_rows=2)
    assert tuning.triton_tuning(90) == TritonTuning(max_warps=4)
    with (
        pytest.raises(ValueError, match="triton has no 'warps' to tune, it has own_scores, "),
        tuning.override("triton", {"warps": 4}),
    ):
        pass
    assert tuning.triton_tuning(90) == TritonTuning(max_warps=4)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", r"tuned\.json, the kernels' tuning table, cannot be read: .*line 1"),
        ("[]", r'tuned\.json: a tuning table is \{"sm_90": '),
        ('{"sm_90": 4}', r'tuned\.json: a tuning table is \{"sm_90": '),
        ('{"hopper": {}}', r"tuned\.json: architectures are named like sm_90, got 'hopper'"),
        ('{"sm_90": {"cuda": {}}}', r"tuned\.json, sm_90: backend must be one of \('triton', 'native'\), got 'cuda'"),
        ('{"sm_90": {"triton": 4}}', r"tuned\.json, sm_90: triton must be an object, got 4"),
        ('{"sm_90": {"triton": {"rows": 4}}}', r"tuned\.json, sm_90: triton has no 'rows' to tune, it has own_sc"),
        ('{"sm_90": {"triton": {"max_rows": 3}}}', r"triton's max_rows must be one of \(1, 2, 4, 8, 16\), got 3"),
        ('{"sm_90": {"triton": {"max_rows": true}}}', "must be one of .*, got True"),
        ('{"sm_90": {"native": {"max_team": 0.5}}}', r"native's max_team must be a positive integer, got 0\.5"),
    ],
)  # fmt: skip
def test_a_bad_table_says_what_is_wrong(text: str, error: str, table: Path) -> None:
    table.write_text(text)
    for backend in ("triton", "native"):
        with pytest.raises(ValueError, match=error):
            tuning.tuning(90, backend)


def test_the_cuda_kernels_get_theirs_once_a_device_and_after_a_change(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, dict[str, int]]] = []

    def set_tuning(capability: int, values: dict[str, int]) -> None:
        if "teams" in values:
            raise ValueError('the CUDA kernels have no "teams" to tune')
        given.append((capability, values))

    monkeypatch.setitem(sys.modules, "wassrank._C", SimpleNamespace(set_tuning=set_tuning))
    monkeypatch.setattr(tuning, "capability", lambda device: {0: 90, 1: 80}[device.index])
    tuning.save(90, "native", {"max_team": 256}, MEASURED)
    for device in (0, 0, 1, 0):
        tuning.tune_native(device)
    assert given == [(90, {"max_team": 256}), (80, {})]
    with tuning.override("native", {"max_team": 128}):
        tuning.tune_native(0)
    tuning.tune_native(0)
    assert given[2:] == [(90, {"max_team": 128}), (90, {"max_team": 256})]
    with (
        tuning.override("native", {"teams": 1}),
        pytest.raises(ValueError, match=r"the CUDA kernels' tuning for sm_90: .*teams"),
    ):
        tuning.tune_native(0)


def test_the_extension_takes_what_the_table_gives() -> None:
    from wassrank import _C

    unused = 12_345  # no GPU's
    defaults = _C.tuning(unused)
    try:
        _C.set_tuning(unused, {"max_team": 128})
        assert _C.tuning(unused) == defaults | {"max_team": 128}
        _C.set_tuning(unused, {})
        assert _C.tuning(unused) == defaults
        for values, said in (({"teams": 1}, "teams"), ({"max_team": 3}, "max_team")):
            with pytest.raises(ValueError, match=said):
                _C.set_tuning(unused, values)
    finally:
        _C.set_tuning(unused, {})


def test_the_operators_tune_the_cuda_kernels_before_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from wassrank.ops import level_losses as ops
    from wassrank.reference import Terms

    order: list[Any] = []
    monkeypatch.setattr(ops, "tune_native", lambda index: order.append(index))
    scores = SimpleNamespace(
        is_cuda=True, device=SimpleNamespace(index=3), dtype=torch.float32, contiguous=lambda: None
    )
    options: dict[str, Any] = {
        "p": 1.0, "temperature": 1.0, "label_temperature": 1.0, "target": "softmax", "mask": None, "weight": None,
        "in_batch": 0, "num_levels": 8, "position": None, "positives": None, "offsets": None,
        "reduction": "mean",
    }  # fmt: skip
    for backend in ("native", "triton"):
        ops._fused(backend, lambda *_: order.append("kernel"))(scores, scores, Terms(wasserstein=1.0), **options)
    assert order == [3, "kernel", "kernel"]


@pytest.mark.gpu
def test_a_tuning_reaches_the_device_in_hand() -> None:
    from wassrank import _C

    device = torch.device("cuda", 0)
    of = tuning.capability(device)
    assert of is not None
    with tuning.override("native", {"backward_threads": 64}):
        tuning.tune_native(0)
        assert _C.tuning(of)["backward_threads"] == 64
    tuning.tune_native(0)
    assert _C.tuning(of) == _C.tuning(0) | tuning.tuning(of, "native")
