"""Which backends are here, and which one "auto" means for a device."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from types import ModuleType

import torch

native: ModuleType | None
"""The C++ extension, where it was built."""
try:
    native = importlib.import_module("wassrank._C")
    _why_not_native = ""
except ImportError as error:  # not built: no compiler at installation, or a torch the binary was not built for
    native = None
    _why_not_native = str(error)

BACKENDS = ("native", "triton", "torch")


def resolve_backend(device: torch.device | str = "cpu", backend: str = "auto") -> str:
    """The backend that runs on `device`: "native" (C++ on CPU, CUDA C++ on NVIDIA), "triton" or "torch".

    "auto" picks the fastest that is present: native, else Triton (GPUs only), else the plain-torch reference. It says
    so once where that is plain torch, or Triton because the CUDA kernels that were built cannot run on this GPU. Naming
    a backend that is not there is an error, never a silent fallback. Each GPU of a machine has its own answer.

    Raises:
        ValueError: `backend` is unknown, or cannot run on `device` here; the text says what is missing.
    """
    if not isinstance(device, torch.device):
        device = torch.device(device)
    return _resolve(device.type, device.index, backend)


@functools.cache
def _resolve_once(kind: str, index: int | None, backend: str) -> str:
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be 'auto' or one of {BACKENDS}, got {backend!r}")
    candidates = ("native",) if kind == "cpu" else ("native", "triton")
    present = [candidate for candidate in candidates if missing(candidate, kind, index) is None]
    fastest = present[0] if present else "torch"
    name = kind if index is None else f"{kind}:{index}"
    if backend == "auto":
        if fastest == "torch":
            why = "; ".join(f"{b}: {missing(b, kind, index)}" for b in ("native", "triton"))
            _say(f"no fused kernel can run on {name!r} tensors here, using the slower plain-torch backend ({why})")
        elif (
            kind == "cuda" and fastest == "triton" and native is not None and native.build_info()["cuda_architectures"]
        ):
            _say(f"the CUDA kernels cannot run on {name!r}, using Triton's ({missing('native', kind, index)})")
        return fastest
    reason = missing(backend, kind, index)
    if reason is not None:
        raise ValueError(
            f"backend={backend!r} cannot run on {name!r} tensors here: {reason}; backend='auto' takes {fastest!r}"
        )
    return backend


def _say(text: str) -> None:
    """Once a device, since answers are cached."""
    warnings.warn(f"wassrank: {text}", RuntimeWarning, stacklevel=5)


def _resolve(kind: str, index: int | None, backend: str) -> str:
    if kind == "cuda" and index is None and torch.cuda.is_available():
        index = torch.cuda.current_device()
    return _resolve_once(kind, index, backend)


# What is installed does not change while a program runs: nothing for torch.compile to trace.
torch.compiler.assume_constant_result(_resolve)


@functools.cache
def missing(backend: str, device_type: str, index: int | None = None) -> str | None:
    """None where `backend` runs on devices of this type (or that one), else what it lacks and how to get it."""
    if backend == "torch":
        return None
    if backend == "native" and native is None:
        return f"the C++ extension is not built ({_why_not_native}); reinstall with a C++20 compiler present"
    if backend == "native" and device_type not in ("cpu", "cuda"):
        return "it serves CPU and CUDA tensors"
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install 'wassrank[triton]'"
    if device_type == "cuda" and not torch.cuda.is_available():
        build = f"with CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        return (
            f"torch {torch.__version__} is built {build} and finds no GPU; it takes a GPU, its driver and a CUDA torch"
        )
    if backend == "native":
        return _missing_cuda(index) if device_type == "cuda" else None
    if device_type == "cpu" and os.environ.get("TRITON_INTERPRET", "0") != "1":
        return "Triton runs on the CPU only in its interpreter: set TRITON_INTERPRET=1 before importing triton"
    return None


def _missing_cuda(index: int | None) -> str | None:
    assert native is not None
    info = native.build_info()
    built, cuda = [int(a) for a in info["cuda_architectures"]], info["cuda_version"]
    if not built:
        return "the extension was built without CUDA; reinstall with nvcc present and WASSRANK_CUDA=1"
    if torch.version.hip:
        return f"the extension holds code for NVIDIA GPUs and torch {torch.__version__} is for AMD's"
    driver = native.cuda_driver_version()
    # The runtime in the extension asks for a driver of its own major version; older code on a newer driver runs.
    if driver // 1000 < int(cuda.split(".")[0]):
        return (
            f"the extension was built with CUDA {cuda} and the driver here serves CUDA up to "
            f"{driver // 1000}.{driver % 1000 // 10}; update the driver or reinstall with an nvcc no newer than that"
        )
    major, minor = torch.cuda.get_device_capability(index)
    # A binary for sm_XY runs on later minors of the same major.
    if any(a // 10 == major and a % 10 <= minor for a in built):
        return None
    names = ", ".join(f"sm_{a}" for a in built)
    return f"the extension holds code for {names} and this GPU is sm_{major}{minor}; reinstall where nvcc sees this GPU"
