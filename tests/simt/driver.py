"""Builds tests/simt/driver.cpp with csrc/cuda, and passes cases to it and results back."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wassrank.codes import EXCLUDED, Reduction, Target
from wassrank.reference.grade_wasserstein import compute_dtype

from .cases import Case, arrays

ROOT = Path(__file__).parent.parent.parent
SIMT = Path(__file__).parent
TIME_LIMIT = 300  # seconds; a collective that not all lanes reach never ends
DTYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}  # of csrc/common/rows.h


@dataclass(frozen=True)
class Result:
    loss: Tensor  # [] or [Q]
    state: Tensor  # [Q, levels + 1]
    scale: Tensor  # []
    grad_scores: Tensor  # [Q, N]


def header(case: Case) -> bytes:
    """`Header` of tests/simt/driver.cpp."""
    kind = Target.given if case.target.startswith("given") else Target[case.target]
    widths = {"given": case.num_passages, "given own": case.own}
    integers = (
        case.Q,
        case.num_passages,
        case.own,
        DTYPES[case.dtype],
        case.label_dtype.itemsize,
        case.label_dtype != torch.uint8,
        EXCLUDED if case.in_batch is None else case.in_batch,
        case.levels,
        kind,
        widths.get(case.target, 0),
        Reduction[case.reduction],
        case.num_passages if case.mask == "full" else 0,
        case.mask != "",
        case.weight,
        case.reduction == "none",
        case.misaligned,
    )
    return struct.pack(f"<{len(integers)}q3d", *integers, case.temperature, case.p, case.label_temperature)


def as_bytes(tensor: Tensor | None) -> bytes:
    if tensor is None or tensor.numel() == 0:
        return b""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


class Results:
    """Reads what the driver wrote, output by output."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = torch.Size(shape).numel() * dtype.itemsize
        part, self.data = self.data[:size], self.data[size:]
        assert len(part) == size
        flat = torch.frombuffer(bytearray(part), dtype=dtype) if part else torch.empty(0, dtype=dtype)
        return flat.reshape(shape)

    def of(self, case: Case) -> Result:
        C = compute_dtype(case.dtype)
        return Result(
            loss=self.tensor((case.Q,) if case.reduction == "none" else (), C),
            state=self.tensor((case.Q, case.levels + 1), C),
            scale=self.tensor((), C),
            grad_scores=self.tensor((case.Q, case.num_passages), case.dtype),
        )


def execute(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)


SANITIZERS = {
    "plain": ["-O1"],
    "address": ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-O0", "-g", "-fsanitize=thread"],
}


@dataclass(frozen=True)
class Driver:
    """tests/simt/driver.cpp and csrc/cuda, compiled into one program."""

    program: Path

    @staticmethod
    def build(folder: Path, sanitizer: str, sources: Path = ROOT / "csrc") -> Driver:
        program = folder / f"driver_{sanitizer}"
        includes = [f"-I{SIMT / 'include'}", f"-I{SIMT}", f"-I{sources}"]  # the first has some of csrc/cuda's names
        # Vector loads look at memory as other types, which CUDA allows.
        options = ["-std=c++20", "-pthread", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]
        files = ["-x", "c++", str(SIMT / "driver.cpp"), str(sources / "cuda" / "grade_wasserstein.cu")]
        command = ["g++", *options, *SANITIZERS[sanitizer], *includes, *files, "-o", str(program)]
        process = execute(command)
        assert process.returncode == 0, process.stderr[-5000:]
        return Driver(program)

    def start(self, cases: Sequence[Case]) -> tuple[subprocess.CompletedProcess[str], bytes]:
        given, results = self.program.with_suffix(".cases"), self.program.with_suffix(".results")
        with given.open("wb") as file:
            for case in cases:
                a = arrays(case)
                file.write(header(case))
                file.writelines(as_bytes(x) for x in (a.scores, a.labels, a.mask, a.target, a.weight, a.grad_loss))
        command = [str(self.program), str(given), str(results)]
        process = execute(command)
        if "unexpected memory mapping" in process.stderr:
            # Linux may place memory more randomly than g++ 12's ThreadSanitizer can follow.
            process = execute(["setarch", "-R", *command])
        return process, results.read_bytes()

    def run(self, cases: Sequence[Case]) -> dict[str, Result]:
        process, data = self.start(cases)
        assert process.returncode == 0, process.stderr[-5000:]
        reader = Results(data)
        found = {case.name: reader.of(case) for case in cases}
        assert not reader.data
        return found


@dataclass(frozen=True)
class Mutant:
    """csrc/cuda with one thing wrong, compiled for float32 alone."""

    name: str
    file: str
    right: str
    wrong: str
    sanitizer: str
    case: str


MUTANTS = [
    Mutant("a barrier left out", "level_sums.cuh", "__syncthreads();", "", "thread", "block rows, in-batch"),
    Mutant("a slot too many", "columns.cuh", "step < stretches", "step <= stretches", "address", "dense, int32 labels"),
    Mutant("edges left out", "columns.cuh", "edges > 0", "edges > 99", "plain", "dense, int8 labels, odd"),
    Mutant("bins not emptied", "level_sums.cuh", "bin(l, thread_) = {0, 0};", "{}", "plain", "in-batch"),
]  # fmt: skip


class Drivers:
    """Builds all drivers two at a time, and hands each out when it is ready."""

    def __init__(self, folder: Path) -> None:
        self.pool = ThreadPoolExecutor(2)
        self.futures: dict[str, Future[Driver]] = {}
        for sanitizer in SANITIZERS:
            self.futures[sanitizer] = self.pool.submit(Driver.build, folder, sanitizer)
        for mutant in MUTANTS:
            self.futures[mutant.name] = self.pool.submit(self.mutate, folder, mutant)

    @staticmethod
    def mutate(folder: Path, mutant: Mutant) -> Driver:
        home = folder / mutant.name.replace(" ", "_")
        shutil.copytree(ROOT / "csrc", home / "csrc", ignore=shutil.ignore_patterns("cpu", "*.cpp"))
        source = home / "csrc" / "cuda" / mutant.file
        text = source.read_text()
        assert text.count(mutant.right) == 1, f"{mutant.file} no longer has {mutant.right!r}"
        source.write_text(text.replace(mutant.right, mutant.wrong))
        types = home / "csrc" / "cuda" / "types.cuh"
        types.write_text(re.sub(r"case Dtype::\w+: .*", "", types.read_text()))
        return Driver.build(home, mutant.sanitizer, home / "csrc")

    def __getitem__(self, name: str) -> Driver:
        return self.futures[name].result()
