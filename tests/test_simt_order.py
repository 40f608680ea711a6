"""The CUDA kernel of `wassrank::grade_order`, run on the CPU by the SIMT machine of tests/simt, with a stand-in for
CUB's sort: which values a thread has, what lies beyond a row, and where places go."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
import torch
from simt.driver import ROOT, SANITIZERS, SIMT, as_bytes, compiled, execute_sanitized
from torch import Tensor

from wassrank.arguments import LONGEST_ON_CUDA

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the SIMT machine is built with g++")


def batches(dtype: torch.dtype) -> list[Tensor]:
    """Rows at both ends of every size of block, with ties, NaN, infinities and zeros of both signs."""
    widths = {1, 2, 31, 128, 129, 1000, 1024, 1025, 4096, LONGEST_ON_CUDA[dtype]}
    made = []
    for width in sorted(widths):
        values = (4 * torch.randn(3, width, generator=torch.Generator().manual_seed(width), dtype=dtype)).round()
        special = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 0.0, -torch.nan, torch.inf], dtype=dtype)
        values[1, : len(special)] = special[:width]
        values[2] = torch.nan
        made.append(values)
    return made


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_order_is_the_stable_one(sanitizer: str, tmp_path: Path) -> None:
    given = [values for dtype in LONGEST_ON_CUDA for values in batches(dtype)]
    files = [str(SIMT / "grade_order.cpp"), "-x", "c++", str(ROOT / "csrc" / "cuda" / "grade_order.cu")]
    program = compiled(tmp_path / "grade_order", sanitizer, files)
    calls, results = tmp_path / "calls", tmp_path / "results"
    with calls.open("wb") as file:
        for values in given:
            file.write(struct.pack("<3q", values.dtype == torch.float64, *values.shape))
            file.write(struct.pack("<q", values.nbytes) + as_bytes(values))
    process = execute_sanitized([str(program), str(calls), str(results)])
    assert process.returncode == 0, process.stderr[-5000:]
    found = torch.frombuffer(bytearray(results.read_bytes()), dtype=torch.int32)
    for values, places in zip(given, found.split([values.numel() for values in given]), strict=True):
        assert torch.equal(places.reshape(values.shape).long(), values.argsort(dim=1, stable=True))
