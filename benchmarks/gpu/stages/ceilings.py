"""The device's measured rates: a large copy, bytes read plus written, and large matrix products of random data."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.stages import Context, main
from benchmarks.gpu.stages.device import describe

COPY_BYTES = 4 << 30  # well past any cache; an eighth of the memory where that is less
GEMM_SIZE = 8192
SAMPLES = 20


def seconds_of(run: Callable[[], Any]) -> float:
    """Median device seconds."""
    for _ in range(3):
        run()
    marks = []
    for _ in range(SAMPLES):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        marks.append((start, end))
    torch.cuda.synchronize()
    return float(statistics.median(start.elapsed_time(end) for start, end in marks)) / 1e3


def copy_rate(size: int) -> float:
    """Bytes a second."""
    source = torch.randn(size // 4, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source))


def gemm_rate(dtype: torch.dtype, n: int, precision: str = "highest") -> float:
    """Floating-point operations a second."""
    torch.set_float32_matmul_precision(precision)
    a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / seconds_of(lambda: torch.mm(a, b, out=out))


def run(context: Context) -> dict[str, Any]:
    device = describe()
    size = min(COPY_BYTES, device["memory_bytes"] // 8)
    return {
        "copy_gb_per_s": copy_rate(size) / 1e9,
        "gemm_tflop_per_s": {
            "bfloat16": gemm_rate(torch.bfloat16, GEMM_SIZE) / 1e12,
            "float16": gemm_rate(torch.float16, GEMM_SIZE) / 1e12,
            "tf32": gemm_rate(torch.float32, GEMM_SIZE, "high") / 1e12,
            "float32": gemm_rate(torch.float32, GEMM_SIZE // 2) / 1e12,
            "float64": gemm_rate(torch.float64, GEMM_SIZE // 2) / 1e12,
        },
    }


if __name__ == "__main__":
    main("ceilings", run)
