"""How kernels share out their work on a GPU: numbers that measuring chose, looked up by architecture.

`tuned.json`, beside this file, holds them: {"sm_90": {"triton": {...}, "native": {...}, "measured": {...}}}, written by
the benchmark's tune stage (`save`). What it does not name keeps its default: Triton's stand here, the CUDA kernels' in
C++. Nothing is measured while a program runs, so the first step is as fast as the second and two runs give the same
bits; what a number changes is how a result is summed up, which moves its last bits and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

TABLE = Path(__file__).with_name("tuned.json")
BACKENDS = ("triton", "native")


def _knob(default: int, *allowed: int) -> Any:
    return field(default=default, metadata={"allowed": allowed})


@dataclass(frozen=True)
class TritonTuning:
    """Read by wassrank/triton/launch.py. The defaults come from the compiled code (registers, spills, exchanges between
    threads), not from timings."""

    # Own passages a lane reads at a time: 8 are two 16-byte loads of float32 in flight.
    own_scores: int = _knob(8, 2, 4, 8, 16)
    # Own passages a lane reads at a time, times levels: with 8 of 32 levels sm_100 code spills, with 4 it does not.
    own_summands: int = _knob(128, 32, 64, 128, 256)
    # Other queries' passages a lane reads at a time: it keeps three numbers of them, so more can be in flight.
    others_scores: int = _knob(16, 4, 8, 16, 32)
    # Elements of the epilogue's [rows, levels, levels] float64 coupling a lane holds, two registers each.
    coupling: int = _knob(8, 4, 8, 16)
    max_warps: int = _knob(8, 1, 2, 4, 8, 16)
    # Rows a program handles when they are short: enough to fill a warp's lanes, few enough that a few hundred rows
    # still spread over the GPU.
    max_rows: int = _knob(8, 1, 2, 4, 8, 16)
    # Scores a program of the backward handles: with 4 warps 8 a lane, one 16-byte load of a half type.
    backward_scores: int = _knob(1024, 256, 512, 1024, 2048, 4096)
    backward_warps: int = _knob(4, 1, 2, 4, 8)
    # The reduction over rows is one program, and a batch has hundreds of rows to a few thousand.
    reduce_block: int = _knob(1024, 256, 512, 1024, 2048, 4096)
    reduce_warps: int = _knob(4, 1, 2, 4, 8)


TRITON_ALLOWED: dict[str, tuple[int, ...]] = {f.name: f.metadata["allowed"] for f in fields(TritonTuning)}

_overrides: dict[str, dict[str, int]] = {}


def tuning(capability: int | None, backend: str) -> dict[str, int]:
    """What differs from the defaults of `backend`, "triton" or "native", on devices of `capability`: 90 for sm_90, None
    for what is no GPU."""
    if backend in _overrides:
        return dict(_overrides[backend])
    if capability is None:
        return {}
    return dict(_table(TABLE).get(f"sm_{capability}", {}).get(backend, {}))


@functools.cache
def triton_tuning(capability: int | None) -> TritonTuning:
    return TritonTuning(**tuning(capability, "triton"))


@contextlib.contextmanager
def override(backend: str, values: Mapping[str, int]) -> Iterator[None]:
    """`values`, and defaults for the rest, instead of the table's on every device, for as long as the block lasts: to
    time a candidate. Of the whole process, so not for threads, and not for what torch.compile made before."""
    check(backend, values, f"override({backend!r})")
    before = _overrides.get(backend)
    _overrides[backend] = dict(values)
    _forget()
    try:
        yield
    finally:
        if before is None:
            del _overrides[backend]
        else:
            _overrides[backend] = before
        _forget()


def save(capability: int, backend: str, values: Mapping[str, int], measured: Mapping[str, str]) -> None:
    """Puts `values` in the table for `backend` on `capability`, with what they were measured on ("device", "date",
    "torch"); everything else stays. The file is whole at any moment."""
    where = f"save(sm_{capability}, {backend!r})"
    check(backend, values, where)
    table = {name: dict(entry) for name, entry in _table(TABLE).items()}
    entry = table.setdefault(f"sm_{capability}", {})
    entry |= {backend: dict(values), "measured": dict(measured)}
    _check_table(table, where)
    with tempfile.NamedTemporaryFile("w", dir=TABLE.parent, suffix=".json", delete=False, encoding="utf-8") as new:
        new.write(json.dumps(table, indent=1, sort_keys=True) + "\n")
    os.chmod(new.name, 0o644)
    os.replace(new.name, TABLE)
    _forget()


def check(backend: str, values: Mapping[str, object], where: str) -> None:
    """ValueError unless `values` are a tuning of `backend`. What the CUDA kernels know and allow is theirs to say
    (_C.set_tuning), where they are built."""
    if backend not in BACKENDS:
        raise ValueError(f"{where}: backend must be one of {BACKENDS}, got {backend!r}")
    known = TRITON_ALLOWED if backend == "triton" else None
    for name, value in values.items():
        if known is not None and name not in known:
            raise ValueError(f"{where}: {backend} has no {name!r} to tune, it has {', '.join(known)}")
        allowed = known[name] if known is not None else None
        if type(value) is not int or value < 1 or (allowed is not None and value not in allowed):
            may_be = "a positive integer" if allowed is None else f"one of {allowed}"
            raise ValueError(f"{where}: {backend}'s {name} must be {may_be}, got {value!r}")


@functools.cache
def capability(device: torch.device) -> int | None:
    """90 for an sm_90; None for what is no GPU: meta tensors, the CPU's in Triton's interpreter."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def tune_native(device_index: int) -> None:
    """Hands the CUDA kernels their numbers; done once a device and after every change, and nothing from then on."""
    _tune_native_once(device_index)


# Numbers do not change while a program runs: nothing for torch.compile to trace.
torch.compiler.assume_constant_result(tune_native)


@functools.cache
def _tune_native_once(device_index: int) -> None:
    of = capability(torch.device("cuda", device_index))
    try:
        importlib.import_module("wassrank._C").set_tuning(of, tuning(of, "native"))
    except ValueError as error:
        raise ValueError(f"the CUDA kernels' tuning for sm_{of}: {error}") from error


def _forget() -> None:
    for cached in (_table, triton_tuning, _tune_native_once):
        cached.cache_clear()


@functools.cache
def _table(path: Path) -> dict[str, dict[str, Any]]:
    try:
        table: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name}, the kernels' tuning table, cannot be read: {error}") from error
    return _check_table(table, path.name)


def _check_table(table: object, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise ValueError(f'{where}: a tuning table is {{"sm_90": {{"triton": {{...}}, "native": {{...}}}}}}')
    for architecture, entry in table.items():
        if re.fullmatch(r"sm_\d+", architecture) is None:
            raise ValueError(f"{where}: architectures are named like sm_90, got {architecture!r}")
        for part, values in entry.items():
            if not isinstance(values, dict):
                raise ValueError(f"{where}, {architecture}: {part} must be an object, got {values!r}")
            if part != "measured":
                check(part, values, f"{where}, {architecture}")
    return table
