"""What is here: the GPU, its driver, the compilers; and the device's own rates, which every figure is set against."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.stages import Context, SkippedError, main


def describe() -> dict[str, Any]:
    """The GPU in hand, or SkippedError with what is missing."""
    if not torch.cuda.is_available():
        build = torch.version.cuda
        has = f"a build for CUDA {build} that finds no usable GPU or driver" if build else "a build without CUDA"
        raise SkippedError(f"no GPU: torch {torch.__version__} is {has}; an NVIDIA GPU and torch for CUDA are needed")
    properties = torch.cuda.get_device_properties()
    return {
        "gpu": properties.name,
        "capability": f"sm_{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
        "driver": driver(),
        "nvcc": nvcc(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def driver() -> str | None:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return None
    query = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    return lines[0] if lines else None


def nvcc() -> str | None:
    path = shutil.which("nvcc") or shutil.which("nvcc", path=str(Path("/usr/local/cuda/bin")))
    if path is None:
        return None
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release ([\d.]+)", text)
    return release[1] if release else None


def run(context: Context) -> dict[str, Any]:
    return {"device": describe()}


if __name__ == "__main__":
    main("device", run)
