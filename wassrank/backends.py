"""Which backends are here, and which one "auto" means for a device."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from types import ModuleType

import torch

_native: ModuleType | None
try:
    _native = importlib.import_module("wassrank._C")
    _why_not_native = ""
except ImportError as error:  # not built: no compiler at installation, or a torch the binary was not built for
    _native = None
    _why_not_native = str(error)

BACKENDS = ("native", "triton", "torch")


def resolve_backend(device: torch.device | str = "cpu", backend: str = "auto") -> str:
    """The backend that runs on `device`: "native" (C++ on CPU, CUDA C++ on NVIDIA), "triton" or "torch".

    "auto" picks the fastest that is present: native, else Triton (GPUs only), else the plain-torch reference.
    Naming one that is not there is an error, never a silent fallback.

    Raises:
        ValueError: `backend` is unknown, or cannot run on `device` here; the text says what is missing.
    """
    return _resolve(device.type if isinstance(device, torch.device) else torch.device(device).type, backend)


@functools.cache
def _resolve_once(kind: str, backend: str) -> str:
    if backend == "auto":
        for candidate in ("native", "triton"):
            if missing(candidate, kind) is None and not (candidate == "triton" and kind == "cpu"):
                return candidate
        why = "; ".join(f"{b}: {missing(b, kind)}" for b in ("native", "triton"))
        warnings.warn(  # once: the answer is cached
            f"wassrank: no fused kernel can run on {kind!r} tensors here, using the slower plain-torch backend ({why})",
            RuntimeWarning,
            stacklevel=4,
        )
        return "torch"
    if backend not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {BACKENDS}, got {backend!r}")
    reason = missing(backend, kind)
    if reason is not None:
        raise ValueError(f"backend={backend!r} cannot run on {kind!r} tensors here: {reason}")
    return backend


def _resolve(kind: str, backend: str) -> str:
    return _resolve_once(kind, backend)


# What is installed does not change while a program runs: nothing for torch.compile to trace.
torch.compiler.assume_constant_result(_resolve)


@functools.cache
def missing(backend: str, device_type: str) -> str | None:
    """None where `backend` runs on devices of this type, else what it lacks and how to get it."""
    if backend == "torch":
        return None
    if backend == "native":
        if _native is None:
            return f"the C++ extension is not built ({_why_not_native}); reinstall with a C++20 compiler present"
        if device_type == "cpu":
            return None
        if device_type == "cuda":
            return _missing_cuda(_native.build_info()["cuda_architectures"])
        return "it serves CPU and CUDA tensors"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install 'wassrank[triton]'"
    if device_type == "cpu" and os.environ.get("TRITON_INTERPRET", "0") != "1":
        return "Triton runs on the CPU only in its interpreter: set TRITON_INTERPRET=1 before importing triton"
    return None


def _missing_cuda(architectures: list[str]) -> str | None:
    built = [int(a) for a in architectures]
    if not built:
        return "the extension was built without CUDA; reinstall with nvcc present and WASSRANK_CUDA=1"
    major, minor = torch.cuda.get_device_capability()
    # A binary for sm_XY runs on later minors of the same major.
    if any(a // 10 == major and a % 10 <= minor for a in built):
        return None
    return f"the extension holds code for sm_{built} and this GPU is sm_{major}{minor}; reinstall on this machine"
