"""The Triton kernels compile for A100, H100/H200 and B200, spill nothing, and keep to their registers. Needs no GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

# Registers a thread, by wassrank.triton.aot's configurations: the most that Triton 3.6, 3.7 or 3.8 was seen to take on
# any of the architectures, rounded up to the 8 in which they are handed out. An SM has 65536.
FORWARD = {
    "16 passages": 64,
    "16 passages, p=1.5": 128,
    "33 passages, int8 labels": 152,
    "256 passages, given, mask, weight": 112,
    "256 passages, p=1.5, 32 levels": 128,
    "4096 passages": 96,
    "4096 passages, bf16": 112,
    "4096 passages, fp64": 152,
    "4096 passages, 32 levels": 184,
    "64 x 4 in batch": 64,
    "512 x 8 in batch": 48,
    "512 x 8 in batch, bf16, mask": 48,
    "512 x 8 in batch, fp64, p=1.5": 120,
    "512 x 8 in batch, given": 56,
    "512 x 8 excluded": 64,
}
BACKWARD = {"33 passages, int8 labels": 96}
BACKWARD_DEFAULT = 72
REDUCE = 56


def test_kernels_compile_without_spills_within_their_registers(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "wassrank.triton.aot", "--json"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    results = json.loads(run.stdout)

    print(f"{'':52}  sm  warps  registers  shared")
    for r in results:
        name = f"{r['kernel']}: {r['configuration']}"
        print(f"{name:52} {r['capability']:3}  {r['warps']:5}  {r['registers']:9}  {r['shared']:6}")
    assert {r["configuration"] for r in results if r["kernel"] == "forward_kernel"} == FORWARD.keys()
    assert {r["capability"] for r in results} == {80, 90, 100}
    for r in results:
        budget = {
            "forward_kernel": FORWARD.get(r["configuration"]),
            "backward_kernel": BACKWARD.get(r["configuration"], BACKWARD_DEFAULT),
            "reduce_kernel": REDUCE,
        }[r["kernel"]]
        assert r["spilled"] == 0, r
        assert r["registers"] <= budget, r
        # What makes the sweep worth its shape (wassrank/triton/rows.py): a block costs loads and arithmetic alone.
        assert r["loop_exchanges"] == 0, r
