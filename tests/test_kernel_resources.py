"""Every kernel compiles for A100, H100/H200 and B200, spills nothing and keeps to its budget. Needs no GPU."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kernels
from benchmarks.occupancy import resident_blocks

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

CAPABILITIES = (80, 90, 100)
STORED = json.loads(kernels.RESULT.read_text(encoding="utf-8"))
STORED_ROWS = kernels.stored_rows()


@pytest.fixture(scope="module", params=[kernels.PARTS[0], pytest.param(kernels.PARTS[1], marks=pytest.mark.full)])
def part(request: pytest.FixtureRequest) -> str:
    """Of what is compiled: `benchmarks.kernels.part_of` says what each part holds and why."""
    return str(request.param)


@pytest.fixture(scope="module")
def compiled(part: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `python -m benchmarks.kernels` finds now."""
    folder = tmp_path_factory.mktemp("kernels")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.kernels", "--out", folder / "kernels.json", "--part", part],
        env=environment | {"TRITON_CACHE_DIR": str(folder / "cache")},
        cwd=kernels.ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads((folder / "kernels.json").read_text(encoding="utf-8"))
    return result


backends = pytest.mark.parametrize(
    "backend",
    [
        "triton",
        pytest.param(
            "native",
            marks=pytest.mark.skipif(
                not kernels.built_for().issuperset(CAPABILITIES), reason="the CUDA kernels are not compiled"
            ),
        ),
    ],
)


def rows_of(result: dict[str, Any], backend: str) -> list[kernels.Row]:
    return [kernels.Row(**row) for row in result["rows"] if row["backend"] == backend]


def stored(backend: str, part: str) -> list[kernels.Row]:
    """Of the rows of benchmarks/results/kernels.json."""
    parts = kernels.part_of(STORED_ROWS)
    return [
        r
        for r in STORED_ROWS
        if r.backend == backend and parts.get((r.kernel, r.configuration, r.capability), part) == part
    ]


@backends
def test_kernels_spill_nothing_and_keep_to_their_budgets(compiled: dict[str, Any], backend: str, part: str) -> None:
    rows = rows_of(compiled, backend)
    print(kernels.table(rows))
    assert {r.kernel for r in rows} == {r.kernel for r in stored(backend, part)}
    for row in rows:
        budget = kernels.budget(backend, row.kernel, row.configuration)
        assert row.local == 0, row
        assert row.registers <= budget["registers"], row
        assert row.occupancy >= budget["occupancy"], row
        # What makes Triton's sweep worth its shape (wassrank/triton/rows.py): a block costs loads and arithmetic alone.
        # Running sums cannot be had for that.
        assert (row.loop_exchanges or 0) <= budget.get("loop_exchanges", 0), row


@backends
def test_stored_figures_are_those_of_the_code(compiled: dict[str, Any], backend: str, part: str) -> None:
    version = {"triton": "triton", "native": "cuda"}[backend]
    if compiled["toolchain"][version] != STORED["toolchain"].get(version):
        pytest.skip(f"they were made with another {version}")
    assert rows_of(compiled, backend) == stored(backend, part), "run python -m benchmarks.kernels"


def test_stored_figures_are_of_all_that_is_compiled() -> None:
    from wassrank.triton import aot

    parts = kernels.part_of(STORED_ROWS)
    assert parts.keys() == {*aot.jobs(CAPABILITIES)}
    for capability in CAPABILITIES:
        first = {kernel for (kernel, _, at), part in parts.items() if (at, part) == (capability, kernels.PARTS[0])}
        assert first == {*kernels.KERNELS["triton"]}


@pytest.mark.parametrize("backend", kernels.KERNELS)
def test_stored_figures_are_of_every_kernel_for_every_gpu(backend: str) -> None:
    rows = [r for r in STORED_ROWS if r.backend == backend]
    assert {r.kernel for r in rows} == {*kernels.KERNELS[backend]}
    assert set(Counter((r.kernel, r.configuration) for r in rows).values()) == {len(CAPABILITIES)}


@pytest.mark.parametrize("backend", kernels.KERNELS)
def test_every_budget_is_somebodys(backend: str) -> None:
    found = {(r.kernel, r.configuration) for r in STORED_ROWS if r.backend == backend}
    for kernel, budgets in json.loads(kernels.BUDGETS.read_text(encoding="utf-8"))[backend].items():
        for configuration in budgets.keys() - {"any other"}:
            assert (kernel, configuration) in found


def test_page_is_what_the_stored_figures_say() -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.kernels", "--check"], cwd=kernels.ROOT, check=True)


def test_stored_figures_show_no_path_and_stay_small() -> None:
    text = kernels.RESULT.read_text(encoding="utf-8")
    assert '"/' not in text
    assert len(text) < 300_000


OCCUPANCY = """
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include "cuda_occupancy.h"
int main(int, char** argv) {
  const int shared_of_sm = std::atoi(argv[1]);
  cudaOccDeviceProp gpu;
  gpu.maxThreadsPerBlock = 1024;
  gpu.maxThreadsPerMultiprocessor = 2048;
  gpu.regsPerBlock = gpu.regsPerMultiprocessor = 65536;
  gpu.warpSize = 32;
  gpu.sharedMemPerBlock = 48 << 10;
  gpu.sharedMemPerMultiprocessor = shared_of_sm;
  gpu.sharedMemPerBlockOptin = shared_of_sm - 1024;
  gpu.reservedSharedMemPerBlock = 1024;
  gpu.numSms = 1;
  cudaOccFuncAttributes kernel;
  kernel.maxThreadsPerBlock = 1024;
  kernel.sharedSizeBytes = 0;
  kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  kernel.maxDynamicSharedSizeBytes = INT_MAX;
  cudaOccDeviceState state;
  int warps, registers, shared, capability;
  while (std::scanf("%d %d %d %d", &capability, &warps, &registers, &shared) == 4) {
    gpu.computeMajor = capability / 10;
    gpu.computeMinor = capability % 10;
    kernel.numRegs = registers;
    cudaOccResult result;
    const auto status = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &gpu, &kernel, &state, 32 * warps, shared);
    std::printf("%d\\n", status == CUDA_OCC_SUCCESS ? result.activeBlocksPerMultiprocessor : -1);
  }
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_occupancy_is_what_nvidias_own_header_counts(capability: int, tmp_path: Path) -> None:
    import triton

    from benchmarks.occupancy import SHARED

    source, program = tmp_path / "occupancy.cpp", tmp_path / "occupancy"
    source.write_text(OCCUPANCY)
    include = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    subprocess.run(["c++", f"-I{include}", source, "-o", program], check=True)
    forms = list(
        itertools.product((1, 2, 4, 8, 16), (16, 32, 40, 56, 57, 64, 72, 128, 152, 184, 255), (0, 100, 4096, 39_000))
    )
    asked = "\n".join(f"{capability} {warps} {registers} {shared}" for warps, registers, shared in forms)
    counted = subprocess.run(
        [program, str(SHARED[capability])], input=asked, capture_output=True, text=True, check=True
    ).stdout.split()
    assert [resident_blocks(capability, *form) for form in forms] == [int(n) for n in counted]
