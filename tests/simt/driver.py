"""Builds the programs of tests/simt with csrc/cuda, and passes calls to them and results back."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import pytest
import torch
from torch import Tensor

from wassrank.arguments import SORTED_STATE_WIDTH, Arguments, SortedArguments
from wassrank.codes import Reduction
from wassrank.reference.rows import compute_dtype

ROOT = Path(__file__).parent.parent.parent
SIMT = Path(__file__).parent
TIME_LIMIT = 300  # seconds: a kernel may loop without end
DTYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}  # of csrc/common/rows.h
TUNING = {"warp_slots": 256, "slots_per_thread": 4, "max_team": 512, "short_row_threads": 128, "backward_threads": 256}


PROGRAMS = ("level_losses", "sorted_losses")


@dataclass(frozen=True)
class Call:
    """What `wassrank::level_losses` or `wassrank::sorted_losses` takes, and the gradient of its loss for the operator's
    backward.

    Of a batch too large to hold, the tensors are the end: `size` is the whole one's Q, N and K. See driver.h.
    """

    arguments: Arguments | SortedArguments
    grad_loss: Tensor  # [] or [Q]
    misaligned: int = 0  # elements between a 16-byte boundary and the first score
    tuning: dict[str, int] = field(default_factory=dict)  # what differs from the defaults
    size: tuple[int, int, int] | None = None

    @property
    def program(self) -> str:
        return PROGRAMS[isinstance(self.arguments, SortedArguments)]

    def as_bytes(self) -> bytes:
        """`Header` of driver.h and the arrays."""
        a = self.arguments
        Q, N, K = self.size or (a.queries, a.scores.shape[-1], a.labels.shape[-1])
        integers = (
            Q,
            N,
            K,
            DTYPES[a.scores.dtype],
            a.labels.element_size(),
            a.labels.dtype != torch.uint8,
            a.in_batch,
            a.num_levels if isinstance(a, Arguments) else 1,
            a.target_kind,
            0 if a.target is None else N if a.offsets is not None else a.target.shape[1],
            a.reduction,
            N if a.mask is not None and a.mask.shape == a.scores.shape else 0,
            a.mask is not None,
            a.weight is not None,
            a.label_temperatures is not None,
            a.positives is not None,
            a.offsets is not None,
            a.position is not None,
            self.misaligned,
            *((self.rows, a.scores.numel()) if self.size else (0, 0)),
            *(TUNING | self.tuning).values(),
        )
        others_label = 0.0 if isinstance(a, Arguments) else a.others_label
        numbers = (a.wasserstein, a.info_nce, a.kl, a.p, a.temperature, a.label_temperature, others_label)
        header = struct.pack(f"<{len(integers)}q{len(numbers)}d", *integers, *numbers)
        tensors = (
            a.scores,
            a.labels,
            a.target,
            a.mask,
            a.weight,
            a.label_temperatures,
            a.positives,
            a.offsets,
            self.grad_loss,
            *((a.position,) if isinstance(a, Arguments) else (a.order, a.position)),
        )
        return header + b"".join(struct.pack("<q", len(array)) + array for array in map(as_bytes, tensors))

    @property
    def rows(self) -> int:
        """Those at the end of a batch too large to hold, or all."""
        a = self.arguments
        return 1 if self.size and a.offsets is not None else a.queries


@dataclass(frozen=True)
class Result:
    loss: Tensor  # [] or [Q]
    state: Tensor  # [Q, its width]
    scale: Tensor  # []
    grad_scores: Tensor  # as the scores
    coefficients: tuple[Tensor, ...] = ()  # of the sorted path: as the labels, and again where there are two


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
        a = call.arguments
        C = compute_dtype(a.scores.dtype)
        width = a.state_width if isinstance(a, Arguments) else SORTED_STATE_WIDTH
        result = Result(
            loss=self.tensor((call.rows,) if a.reduction == Reduction.none else (), C),
            state=self.tensor((call.rows, width), C),
            scale=self.tensor((), C),
            grad_scores=self.tensor(tuple(a.scores.shape), a.scores.dtype),
        )
        if isinstance(a, Arguments) or call.size:
            return result
        count = 2 if a.affine else 1
        return replace(result, coefficients=tuple(self.tensor(tuple(a.labels.shape), C) for _ in range(count)))


INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def poisoned(tensor: Tensor) -> Tensor:
    """Elements that still have, or were computed from, the bits the driver fills outputs and shared memory with."""
    return tensor.view(INTEGERS[tensor.element_size()]) == -1


def bits(tensor: Tensor) -> Tensor:
    """With one NaN for all: which one comes of two is the compiler's choice."""
    return torch.where(tensor.isnan(), torch.nan, tensor).view(INTEGERS[tensor.element_size()])


def execute(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)


def execute_sanitized(command: list[str]) -> subprocess.CompletedProcess[str]:
    """What `compiled` made: Linux may place memory more randomly than g++ 12's ThreadSanitizer can follow."""
    process = execute(command)
    return execute(["setarch", "-R", *command]) if "unexpected memory mapping" in process.stderr else process


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


class Sendable(Protocol):
    def as_bytes(self) -> bytes: ...


@dataclass(frozen=True)
class Driver:
    """A program of tests/simt with its part of csrc/cuda."""

    program: Path

    @staticmethod
    def build(folder: Path, program: str, sanitizer: str, main: Path, sources: Path = ROOT / "csrc") -> Driver:
        files = [str(main), "-x", "c++", str(sources / "cuda" / f"{program}.cu")]
        return Driver(compiled(folder / f"{program}_{sanitizer}", sanitizer, files, sources))

    def start(self, calls: Sequence[Sendable]) -> tuple[subprocess.CompletedProcess[str], bytes]:
        given, results = self.program.with_suffix(".calls"), self.program.with_suffix(".results")
        with given.open("wb") as file:
            file.writelines(call.as_bytes() for call in calls)
        command = [str(self.program), str(given), str(results)]
        return execute_sanitized(command), results.read_bytes()

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
    program: str = "level_losses"


RACE, OVERFLOW, STUCK = ("thread", "data race"), ("address", "heap-buffer-overflow"), ("plain", "others do not reach")
POISON, NUMBERS = ("plain", "poison"), ("plain", "numbers")
KERNEL, SUMS, ROWS = "level_losses.cu", "level_sums.cuh", "rows.cuh"
PIECES, WRITER = "row_sums.cuh", "gradient.cuh"
IN_BATCH = "info_nce_in_batch"
MUTANTS = [
    Mutant("no barrier before sums are read", SUMS, "__syncthreads();", "", *RACE, "block rows"),
    Mutant("no barrier before warps' losses are read", "reduce.cuh", "__syncthreads();", "", *RACE, "in_batch"),
    Mutant("no barrier before lanes' bins are read", SUMS, "__syncwarp();", "", *RACE, "in_batch"),
    Mutant("a barrier for some", SUMS, "__syncthreads();", "if (lane) __syncthreads();", *STUCK, "block rows"),
    Mutant("a slot too many", "columns.cuh", "step < stretches", "step <= stretches", *OVERFLOW, "dense"),
    Mutant("a gradient one column on", WRITER, "gradient_ + hand", "gradient_ + 1 + hand", *OVERFLOW, "dense"),
    Mutant("a state one row on", KERNEL, "(args.state) + row", "(args.state) + 1 + row", *OVERFLOW, "dense"),
    Mutant("a list one score on", ROWS, "begin(rows.begin", "begin(1 + rows.begin", *OVERFLOW, "packed_one"),
    Mutant("edges left out", "columns.cuh", "edges > 0", "edges > 99", *POISON, "dense_int8_p2"),
    Mutant("bins not emptied", SUMS, "bin(l, thread_) = {};", "{}", *NUMBERS, "in_batch"),
    Mutant("others' bin not emptied", SUMS, "l < Memory::bin_slots(levels_)", "l <= levels_", *POISON, "kl_exp2_dense"),
    Mutant("no maximum kept", KERNEL, "state[layout.max()] =", "[[maybe_unused]] C none =", *POISON, "none"),
    Mutant("no scale of a reduced batch", "reduce.cuh", "*scale = static_cast<C>(factor);", "", *POISON, "sum"),
    Mutant("half a warp's sum", "warp.cuh", "distance >= period", "distance > period", *NUMBERS, "dense"),
    Mutant("x not shifted", PIECES, "sum -= count * by.drop;", "", *NUMBERS, "rising, all losses"),
    Mutant("lanes' x not shifted", PIECES, "part.count) * by.drop", "0) * by.drop", *NUMBERS, "listwise_kl_in_batch"),
    Mutant("one positive", "info_nce.cuh", "factor / (t * count)", "factor / t", *NUMBERS, IN_BATCH),
    Mutant("others are positives", KERNEL, "found.b, args.rows", "found.b - pull.size, args.rows", *NUMBERS, IN_BATCH),
    Mutant("T not normalised", "listwise_kl.cuh", "gain / target.total", "gain", *NUMBERS, "listwise_kl_dense"),
    Mutant("labels of the first list", ROWS, "rows.labels_begin(row) -", "-", *NUMBERS, "packed_info_nce"),
    Mutant("a place in the row", ROWS, "own.begin + static_cast", "static_cast", *NUMBERS, "info_nce_positives"),
    Mutant("a row found in 31 bits", ROWS, "scores) + begin", "scores) + int(begin)", *NUMBERS, "many_short_rows"),
    Mutant("a row found in 32 bits", WRITER, "+ row.begin)", "+ unsigned(row.begin))", *POISON, "many_short_rows"),
]  # fmt: skip
POINTS, TEAM, PASSAGES, SORTED = "sorted_transport.cuh", "team_work.cuh", "sorted_row.cuh", "sorted_losses.cu"
BLOCK, FLOATS = "a block's least, floats", "floats_in_batch_p1"
OTHERS_C = "state[SortedState::others_c] = static_cast<C>(c);"
MUTANTS += [
    Mutant(*of, program="sorted_losses")
    for of in (
        ("no barrier before warps' numbers are read", TEAM, "__syncthreads();\n    return", "return", *RACE, BLOCK),
        ("one place for warps' numbers", TEAM, "turn_ ^= 1;", "", *RACE, BLOCK),
        ("no barrier before points are looked at", POINTS, "work.sync();", "", *RACE, "floats_packed_p2"),
        ("no barrier before facts are read", PASSAGES, "work.sync();", "", *RACE, FLOATS),
        ("a point too many", SORTED, "points <= memory", "points - 1 <= memory", *OVERFLOW, "packed, uneven, floats"),
        ("a coefficient one place on", SORTED, "coefficient[n]", "coefficient[n + 1]", *OVERFLOW, "floats_dense_p1"),
        ("no constant", SORTED, "constant[n] =", "[[maybe_unused]] C none =", *POISON, "floats_all_dense"),
        ("others not kept", SORTED, OTHERS_C, "", *POISON, FLOATS),
        ("warps start from 0", TEAM, "if (w == warp_) before = all;", "", *NUMBERS, BLOCK),
        ("others not in order", PASSAGES, "? 0\n", "? 1\n", *NUMBERS, "others below, floats"),
        ("places not clamped", PASSAGES, "x <= f.highest ? x : f.highest", "x", *NUMBERS, "own nowhere, floats"),
        ("others' gain is a passage's", PASSAGES, "count * f.one_other", "f.one_other", *NUMBERS, FLOATS),
        ("one side of a tie", POINTS, "G[k] > height + slack", "true", *NUMBERS, "floats_equal_p2"),
        ("no slack", POINTS, "tie_slack(height, tie_)", "0", *NUMBERS, "nearly equal, floats"),
        ("half of the stretches", POINTS, "cost += stretch(G[i]", "stretch(G[i]", *NUMBERS, "floats_dense_p2"),
        ("the mean is left", SORTED, "- transported.mean_potential", "", *NUMBERS, "floats_dense_p1"),
        ("T of others for own", SORTED, "nullptr, [&]", "writer.target(), [&]", *NUMBERS, "floats_all_given_to_others"),
        ("a label for a place", PASSAGES, "x = coordinates_[n]", "x = labels_[n]", *NUMBERS, "floats_position_p1"),
    )
]  # fmt: skip
# No mutant but a variant that must be right: so few blocks that they stride over the rows of a small batch.
FEW_BLOCKS = Mutant(
    "two blocks in flight",
    SORTED,
    "kLeastBlocks = 32, kMostBlocks = 2 * 148",
    "kLeastBlocks = 2, kMostBlocks = 2",
    "thread",
    "nothing",
    "workspace, floats",
    program="sorted_losses",
)


def every_mutant(of: Sequence[Mutant], huge: Collection[str] = ()) -> pytest.MarkDecorator:
    """Parametrises a test. What mutants show is of the tests: that a sanitizer, poison or a comparison would tell. Each
    is a program to build, so of those that one program's tests notice the same way, `huge` inputs apart, the first
    stands for all at every `make test`; the others wait for `make test-full`."""
    first = {(m.program, m.seen, m.input in huge): m for m in reversed(of)}.values()
    return pytest.mark.parametrize(
        "mutant",
        [pytest.param(m, id=m.name, marks=() if m in first else pytest.mark.full) for m in of],
    )


def source_of(mutant: Mutant) -> str:
    text = (ROOT / "csrc" / "cuda" / mutant.file).read_text()
    assert mutant.right in text, f"{mutant.file} no longer has {mutant.right!r}"
    return text


def broken_copy(mutant: Mutant, home: Path) -> Path:
    """Of csrc, below `home`."""
    sources = home / "csrc"
    shutil.copytree(ROOT / "csrc", sources, ignore=shutil.ignore_patterns("cpu", "*.cpp"))
    source, types = sources / "cuda" / mutant.file, sources / "cuda" / "types.cuh"
    source.write_text(source_of(mutant).replace(mutant.right, mutant.wrong, 1))
    types.write_text(re.sub(r"case Dtype::\w+: .*", "", types.read_text()))
    return sources


class Drivers:
    """Builds all drivers two at a time, and hands each out when it is ready. With the sanitizers `calls` are run at
    once, while others are built. Mutants are built when they are asked for."""

    def __init__(self, folder: Path, calls: Sequence[Call]) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(2)
        forms = [(program, sanitizer) for sanitizer in SANITIZERS for program in PROGRAMS]
        self.mains = {form: self.pool.submit(self.main, *form) for form in forms}
        self.drivers = {form: self.pool.submit(self.build, *form) for form in forms}
        self.sanitized = {
            form: self.pool.submit(self.run_those, *form, calls) for form in forms if form[1] in ("address", "thread")
        }

    def main(self, program: str, sanitizer: str) -> Path:
        source = str(SIMT / f"{program}.cpp")
        return compiled(self.folder / f"main_{program}_{sanitizer}.o", sanitizer, ["-c", source])

    def build(self, program: str, sanitizer: str) -> Driver:
        return Driver.build(self.folder, program, sanitizer, self.mains[program, sanitizer].result())

    def broken(self, mutant: Mutant) -> Driver:
        home = self.folder / mutant.name.replace(" ", "_")
        main = self.mains[mutant.program, mutant.sanitizer].result()
        return Driver.build(home, mutant.program, mutant.sanitizer, main, broken_copy(mutant, home))

    def run_those(self, program: str, sanitizer: str, calls: Sequence[Call]) -> list[Result]:
        """Of the calls, the program's."""
        return self.drivers[program, sanitizer].result().run([call for call in calls if call.program == program])

    def run(self, calls: Sequence[Call], sanitizer: str = "plain") -> list[Result]:
        """Any calls' results, in order."""
        found = {program: iter(self.run_those(program, sanitizer, calls)) for program in PROGRAMS}
        return [next(found[call.program]) for call in calls]

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
