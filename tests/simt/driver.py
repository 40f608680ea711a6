"""Builds tests/simt/driver.cpp with csrc/cuda, and passes calls to it and results back."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from wassrank.codes import Reduction

ROOT = Path(__file__).parent.parent.parent
SIMT = Path(__file__).parent
TIME_LIMIT = 300  # seconds: a kernel may loop without end
DTYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}  # of csrc/common/rows.h
TUNING = {"warp_slots": 256, "slots_per_thread": 4, "max_team": 512, "short_row_threads": 128, "backward_threads": 256}


def computing(dtype: torch.dtype) -> torch.dtype:
    """What losses of such scores are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Call:
    """What `wassrank::grade_wasserstein` takes, and the gradient of its loss for the operator's backward.

    Of a batch too large to hold, the tensors are the end: `size` is the whole one's Q, N and K. See driver.cpp.
    """

    scores: Tensor  # [Q, N]
    labels: Tensor  # [Q, N] or [Q, K]
    target: Tensor | None
    mask: Tensor | None
    weight: Tensor | None
    target_kind: int
    reduction: int
    in_batch: int
    num_levels: int
    p: float
    temperature: float
    label_temperature: float
    _: KW_ONLY
    grad_loss: Tensor  # [] or [Q]
    misaligned: int = 0  # elements between a 16-byte boundary and the first score
    tuning: dict[str, int] = field(default_factory=dict)  # what differs from the defaults
    size: tuple[int, int, int] | None = None

    def as_bytes(self) -> bytes:
        """`Header` of driver.cpp and the arrays."""
        Q, N, K = self.size or (*self.scores.shape, self.labels.shape[1])
        integers = (
            Q,
            N,
            K,
            DTYPES[self.scores.dtype],
            self.labels.element_size(),
            self.labels.dtype != torch.uint8,
            self.in_batch,
            self.num_levels,
            self.target_kind,
            0 if self.target is None else self.target.shape[1],
            self.reduction,
            N if self.mask is not None and self.mask.shape == self.scores.shape else 0,
            self.mask is not None,
            self.weight is not None,
            self.misaligned,
            *((self.labels.shape[0], self.scores.numel()) if self.size else (0, 0)),
            *(TUNING | self.tuning).values(),
        )
        header = struct.pack(f"<{len(integers)}q3d", *integers, self.temperature, self.p, self.label_temperature)
        arrays = [as_bytes(x) for x in (self.scores, self.labels, self.target, self.mask, self.weight, self.grad_loss)]
        return header + b"".join(struct.pack("<q", len(array)) + array for array in arrays)


@dataclass(frozen=True)
class Result:
    loss: Tensor  # [] or [Q]
    state: Tensor  # [Q, levels + 1]
    scale: Tensor  # []
    grad_scores: Tensor  # [Q, N]


def as_bytes(tensor: Tensor | None) -> bytes:
    if tensor is None or tensor.numel() == 0:
        return b""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


class Results:
    """Reads what the driver wrote, output by output."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        end = self.at + torch.Size(shape).numel() * dtype.itemsize
        assert end <= len(self.data)
        part, self.at = bytearray(self.data[self.at : end]), end
        return (torch.frombuffer(part, dtype=dtype) if part else torch.empty(0, dtype=dtype)).reshape(shape)

    def of(self, call: Call) -> Result:
        C = computing(call.scores.dtype)
        Q = call.labels.shape[0]
        return Result(
            loss=self.tensor((Q,) if call.reduction == Reduction.none else (), C),
            state=self.tensor((Q, call.num_levels + 1), C),
            scale=self.tensor((), C),
            grad_scores=self.tensor(tuple(call.scores.shape), call.scores.dtype),
        )


def execute(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)


SANITIZERS = {
    "plain": ["-O1"],
    "address": ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-O1", "-g", "-fsanitize=thread"],
}


def compiled(target: Path, sanitizer: str, files: Sequence[str], sources: Path = ROOT / "csrc") -> Path:
    """What g++ makes of `files`, with tests/simt/include in the place of some of `sources`' headers."""
    includes = [f"-I{SIMT / 'include'}", f"-I{SIMT}", f"-I{sources}"]
    # Vector loads look at memory as other types, which CUDA allows.
    options = ["-std=c++20", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]
    process = execute(["g++", *options, *SANITIZERS[sanitizer], *includes, *files, "-o", str(target)])
    assert process.returncode == 0, process.stderr[-5000:]
    return target


@dataclass(frozen=True)
class Driver:
    """tests/simt/driver.cpp and csrc/cuda, compiled into one program."""

    program: Path

    @staticmethod
    def build(folder: Path, sanitizer: str, main: Path, sources: Path = ROOT / "csrc") -> Driver:
        files = [str(main), "-x", "c++", str(sources / "cuda" / "grade_wasserstein.cu")]
        return Driver(compiled(folder / f"driver_{sanitizer}", sanitizer, files, sources))

    def start(self, calls: Sequence[Call]) -> tuple[subprocess.CompletedProcess[str], bytes]:
        given, results = self.program.with_suffix(".calls"), self.program.with_suffix(".results")
        with given.open("wb") as file:
            file.writelines(call.as_bytes() for call in calls)
        command = [str(self.program), str(given), str(results)]
        process = execute(command)
        if "unexpected memory mapping" in process.stderr:
            # Linux may place memory more randomly than g++ 12's ThreadSanitizer can follow.
            process = execute(["setarch", "-R", *command])
        return process, results.read_bytes()

    def run(self, calls: Sequence[Call]) -> list[Result]:
        process, data = self.start(calls)
        assert process.returncode == 0, process.stderr[-5000:]
        reader = Results(data)
        results = [reader.of(call) for call in calls]
        assert reader.at == len(data)
        return results


@dataclass(frozen=True)
class Mutant:
    """csrc/cuda with one thing wrong, compiled for float32 alone, and what is seen of it on which input."""

    name: str
    file: str
    right: str
    wrong: str
    sanitizer: str
    seen: str  # on stderr; or "poison" or "numbers" in the results
    input: str


RACE, OVERFLOW, STUCK = ("thread", "data race"), ("address", "heap-buffer-overflow"), ("plain", "others do not reach")
POISON, NUMBERS = ("plain", "poison"), ("plain", "numbers")
KERNEL, SUMS = "grade_wasserstein.cu", "level_sums.cuh"
MUTANTS = [
    Mutant("no barrier before sums are read", SUMS, "__syncthreads();", "", *RACE, "block rows"),
    Mutant("no barrier before warps' losses are read", "reduce.cuh", "__syncthreads();", "", *RACE, "in_batch"),
    Mutant("no barrier before lanes' bins are read", SUMS, "__syncwarp();", "", *RACE, "in_batch"),
    Mutant("a barrier for some", SUMS, "__syncthreads();", "if (lane) __syncthreads();", *STUCK, "block rows"),
    Mutant("a slot too many", "columns.cuh", "step < stretches", "step <= stretches", *OVERFLOW, "dense"),
    Mutant("a gradient one column on", KERNEL, "gradient + hand", "gradient + 1 + hand", *OVERFLOW, "dense"),
    Mutant("a state one row on", KERNEL, "(args.state) + row *", "(args.state) + (row + 1) *", *OVERFLOW, "dense"),
    Mutant("edges left out", "columns.cuh", "edges > 0", "edges > 99", *POISON, "dense_int8_p2"),
    Mutant("bins not emptied", SUMS, "bin(l, thread_) = {0, 0};", "{}", *POISON, "in_batch"),
    Mutant("no maximum kept", KERNEL, "state[levels] = empty ? C(0) : sums.max;", "", *POISON, "none"),
    Mutant("no scale of a reduced batch", "reduce.cuh", "*scale = static_cast<C>(factor);", "", *POISON, "sum"),
    Mutant("half a warp's sum", "warp.cuh", "distance >= period", "distance > period", *NUMBERS, "dense"),
    Mutant("a row found in 31 bits", "rows.cuh", "row * rows.N),", "int(row * rows.N)),", *NUMBERS, "many_short_rows"),
    Mutant("a row found in 32 bits", KERNEL, "row * rows.N;", "unsigned(row * rows.N);", *POISON, "many_short_rows"),
]


class Drivers:
    """Builds all drivers two at a time, and hands each out when it is ready."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(2)
        self.mains = {sanitizer: self.pool.submit(self.main, sanitizer) for sanitizer in SANITIZERS}
        self.drivers: dict[str, Future[Driver]] = {}
        for sanitizer in SANITIZERS:
            self.drivers[sanitizer] = self.pool.submit(self.build, sanitizer)
        for mutant in MUTANTS:
            self.drivers[mutant.name] = self.pool.submit(self.mutate, mutant)

    def main(self, sanitizer: str) -> Path:
        return compiled(self.folder / f"main_{sanitizer}.o", sanitizer, ["-c", str(SIMT / "driver.cpp")])

    def build(self, sanitizer: str) -> Driver:
        return Driver.build(self.folder, sanitizer, self.mains[sanitizer].result())

    def mutate(self, mutant: Mutant) -> Driver:
        home = self.folder / mutant.name.replace(" ", "_")
        shutil.copytree(ROOT / "csrc", home / "csrc", ignore=shutil.ignore_patterns("cpu", "*.cpp"))
        source = home / "csrc" / "cuda" / mutant.file
        text = source.read_text()
        assert mutant.right in text, f"{mutant.file} no longer has {mutant.right!r}"
        source.write_text(text.replace(mutant.right, mutant.wrong, 1))
        types = home / "csrc" / "cuda" / "types.cuh"
        types.write_text(re.sub(r"case Dtype::\w+: .*", "", types.read_text()))
        return Driver.build(home, mutant.sanitizer, self.mains[mutant.sanitizer].result(), home / "csrc")

    def __getitem__(self, name: str) -> Driver:
        return self.drivers[name].result()
