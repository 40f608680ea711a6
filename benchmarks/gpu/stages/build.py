"""Builds the extension for the GPU in hand, offline, with what is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.gpu.stages import Context, SkippedError, main
from benchmarks.gpu.stages.device import describe
from benchmarks.gpu.store import ROOT

ABOUT = "import json, wassrank._C as _C; print(json.dumps(_C.build_info()))"


def run(context: Context) -> dict[str, Any]:
    device = describe()
    if device["nvcc"] is None:
        raise SkippedError("no nvcc: the CUDA kernels cannot be built here; Triton's and plain torch will be timed")
    began = time.monotonic()
    build = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=ROOT, check=False)
    took = round(time.monotonic() - began, 1)
    if build.returncode != 0:
        return {"status": "failed", "reason": f"setup.py ended with {build.returncode}: see the log"}
    about = subprocess.run([sys.executable, "-c", ABOUT], cwd=ROOT, capture_output=True, text=True, check=False)
    if about.returncode != 0:
        return {"status": "failed", "reason": (about.stderr.strip().splitlines() or ["wassrank._C: no"])[-1]}
    info = json.loads(about.stdout)
    wanted = device["capability"].removeprefix("sm_")
    if wanted not in info["cuda_architectures"]:
        return {"status": "failed", "reason": f"built for {info['cuda_architectures']}, this GPU is sm_{wanted}"}
    return {"build_seconds": took, "build": info}


if __name__ == "__main__":
    main("build", run)
