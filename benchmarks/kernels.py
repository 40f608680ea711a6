"""`python -m benchmarks.kernels`: what every kernel takes of an SM, read back from the compiled code. Needs no GPU.

Triton's kernels are compiled for sm_80, sm_90 and sm_100 in every configuration of wassrank.triton.aot; the CUDA
kernels are those of the library as built, in the launches it would make. Rows go to benchmarks/results/kernels.json and
from there, with their budgets (tests/kernel_budgets.json), to docs/kernels.md. With --check nothing is compiled and it
fails if docs/kernels.md does not hold what the JSON says; with --out the rows go to another file and nothing else is
written, and with --part Triton's are those of `part_of`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import wassrank
from benchmarks.occupancy import SHARED, occupancy
from wassrank.arguments import LONGEST_ON_CUDA
from wassrank.backends import missing

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "kernels.json"
BUDGETS = ROOT / "tests" / "kernel_budgets.json"
PAGE = ROOT / "docs" / "kernels.md"


@dataclass(frozen=True)
class Row:
    backend: str
    kernel: str
    configuration: str
    capability: int
    warps: int  # a block
    registers: int  # a thread
    local: int  # bytes of local memory a thread: its stack frame, where what has no register is spilled
    shared: int  # bytes a block, static and dynamic
    occupancy: float  # resident warps over the most an SM can hold
    loop_exchanges: int | None = None  # Triton's: shuffles, barriers, shared-memory accesses in the longest loop


PARTS = ("representative", "other")


def part_of(rows: list[Row]) -> dict[tuple[str, str, int], str]:
    """The part each of Triton's kernels is in: those that are representative are compiled at every `make test`, the
    others take as long again and wait for `make test-full`. For sm_90 all are: every configuration is compiled once.
    For the other two it is each kernel's forms that come nearest to a limit, by the stored figures: the most registers
    and the least occupancy. What one of the three compilers makes worse shows there first."""
    parts = {}
    of_kernel: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.backend == "triton":
            of_kernel.setdefault((row.kernel, row.capability), []).append(row)
    for (kernel, capability), of in of_kernel.items():
        extreme = (max(of, key=lambda r: r.registers), min(of, key=lambda r: r.occupancy))
        for row in of:
            chosen = capability == 90 or row in extreme
            parts[kernel, row.configuration, capability] = PARTS[not chosen]
    return parts


def triton_rows(part: str | None) -> Iterator[Row]:
    from wassrank.triton import aot

    jobs = list(aot.jobs(aot.CAPABILITIES))
    if part is not None:
        parts = part_of(stored_rows())
        jobs = [job for job in jobs if parts.get(job, PARTS[0]) == part]  # what is new is in the first
    for r in aot.compile_all(jobs):
        resident = occupancy(r.capability, r.warps, r.registers, r.shared)
        yield Row("triton", occupancy=resident, **asdict(r))


# In-batch, float32 … at the smallest size worth a GPU, the README's large one, and one that fills any GPU. [Q, N], K.
SIZES = {"64 x 256": (64, 256, 4), "512 x 4096": (512, 4096, 8), "4096 x 32768": (4096, 32768, 8)}
# Float labels: the same small batch, lists of a query's own in shared memory, and such as need the workspace.
SORTED_SIZES = {"64 x 256": (64, 256, 4), "512 x 1000, own": (512, 1000, 1000), "64 x 10000, own": (64, 10000, 10000)}
# The 1-D distance, n = m: a warp's pairs, a block's in shared memory, and such as need the workspace.
PAIR_SIZES = {"1024 pairs of 64": (1024, 64), "1024 pairs of 1024": (1024, 1024), "64 pairs of 16384": (64, 16384)}
ORDERED = (100, 1000, 4000, 8000)  # columns
MANGLED = {"float64": "d", "float32": "f", "float16": "4Half", "bfloat16": "8BFloat16"}
GAUSSIAN = tuple(f"gaussian_{kernel}" for kernel in ("rows", "moments", "products", "along", "tiles", "gradient"))
# In the order of the page; the CUDA kernels' names end in _kernel.
KERNELS = {
    "triton": (
        *("sort", "forward", "sorted_forward", "quantiles", "coefficients", "reduce", "backward"),
        *GAUSSIAN,
        *("pairing", "staircase"),
        *(f"embeddings_{kernel}" for kernel in ("own", "others", "finish", "gradient")),
    ),
    "native": (
        *("forward", "reduce", "backward", "sorted_forward", "sorted_backward", "order"),
        *GAUSSIAN,
        *("coupled", "paired"),
    ),
}


def built_for() -> set[int]:
    """Compute capabilities the library holds CUDA kernels for."""
    if missing("native", "cpu") is not None:
        return set()
    from wassrank import _C

    return {int(a) for a in _C.build_info()["cuda_architectures"]}


@dataclass(frozen=True)
class Planned:
    """A launch the library would make, and how its kernel's template arguments are mangled."""

    configuration: str
    capability: int
    launch: Any
    arguments: str


def planned() -> Iterator[Planned]:
    from wassrank import _C

    capabilities = sorted(built_for() & {*SHARED})
    for dtype, (size, (Q, N, K)), affine, capability in itertools.product(
        MANGLED, SIZES.items(), (False, True), capabilities
    ):
        for launch in _C.level_losses_launches(
            dtype, Q, N, K, in_batch=0, num_levels=8, reduced=True, capability=capability, affine=affine
        ):
            if launch["kernel"] != "reduce_kernel":
                name = f"{dtype}, {size}{', all losses' if affine else ''}"
                yield Planned(name, capability, launch, rf"(?:\w+_)?{MANGLED[dtype]}E?Lb{affine:d}E")
            elif dtype in {"float64", "float32"} and size == next(iter(SIZES)) and not affine:
                yield Planned(dtype, capability, launch, MANGLED[dtype])  # always one block
    for dtype, (size, (Q, N, K)), p, capability in itertools.product(
        MANGLED, SORTED_SIZES.items(), (1, 2), capabilities
    ):
        launches, _ = _C.sorted_losses_launches(dtype, Q, N, K, 0, p, reduced=True, capability=capability)
        for launch in launches:
            if launch["kernel"] == "sorted_forward_kernel" or (launch["kernel"] != "reduce_kernel" and p == 1):
                name = f"{dtype}, {size}{', p=2' if p == 2 else ''}"
                yield Planned(name, capability, launch, rf"(?:\w+_)?{MANGLED[dtype]}E?E")
    for dtype, columns, capability in itertools.product(("float64", "float32"), ORDERED, capabilities):
        if columns <= LONGEST_ON_CUDA[getattr(torch, dtype)]:
            (launch,) = _C.grade_order_launches(dtype == "float64", 512, columns)
            threads = launch["block"][0]
            name = f"{dtype}, rows of {columns}"
            yield Planned(name, capability, launch, f"{MANGLED[dtype]}Li{threads}E")
    for dtype, (size, (Q, N, _)), capability in itertools.product(MANGLED, SIZES.items(), capabilities):
        for launch in _C.gaussian_wasserstein_launches(dtype, Q, N):
            yield Planned(f"{dtype}, {size}", capability, launch, rf"(?:\w+_)?{MANGLED[dtype]}E?E")
    for dtype, (size, (R, n)), weighted, capability in itertools.product(
        MANGLED, PAIR_SIZES.items(), (True, False), capabilities
    ):
        wanted = 0b1111 if weighted else 0b11
        (launch,), _ = _C.wasserstein_1d_launches(dtype, R, n, n, weighted, wanted, capability=capability)
        yield Planned(f"{dtype}, {size}", capability, launch, rf"(?:\w+_)?{MANGLED[dtype]}E?E")


def native_rows() -> Iterator[Row]:
    """No rows where the library holds no CUDA kernels."""
    if not built_for():
        return
    from wassrank import _C
    from wassrank.triton import aot

    assert _C.__file__ is not None
    usages = aot.usages(Path(_C.__file__))
    for plan in planned():
        launch = plan.launch
        name = re.compile(rf"\d{launch['kernel']}I{plan.arguments}")
        found = {u for u in usages if u.capability == plan.capability and name.search(u.function)}
        (usage,) = found  # one form each; the reduction's is in every file that launches it
        warps, shared = math.prod(launch["block"]) // 32, usage.shared + launch["shared_bytes"]
        yield Row(
            backend="native",
            kernel=launch["kernel"].removesuffix("_kernel"),
            configuration=plan.configuration,
            capability=plan.capability,
            warps=warps,
            registers=usage.registers,
            local=usage.local,
            shared=shared,
            occupancy=occupancy(plan.capability, warps, usage.registers, shared),
        )


def toolchain() -> dict[str, str]:
    import triton

    versions = {"wassrank": wassrank.__version__, "triton": str(triton.__version__)}
    if missing("native", "cpu") is None:
        from wassrank import _C

        versions["cuda"] = _C.build_info()["cuda_version"]
    return versions


def stored_rows() -> list[Row]:
    return [Row(**row) for row in json.loads(RESULT.read_text(encoding="utf-8"))["rows"]]


def measure(out: Path, part: str | None = None) -> None:
    rows = [*triton_rows(part), *native_rows()]
    known = ({k: v for k, v in asdict(row).items() if v is not None} for row in rows)
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in known)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f'{{"toolchain": {json.dumps(toolchain())},\n"rows": [\n{lines}\n]}}\n', encoding="utf-8")


def budget(backend: str, kernel: str, configuration: str) -> dict[str, Any]:
    """{"registers": at most, "occupancy": at least}."""
    of_kernel = json.loads(BUDGETS.read_text(encoding="utf-8"))[backend][kernel]
    found: dict[str, Any] = of_kernel.get(configuration) or of_kernel["any other"]
    return found


INTRODUCTION = """# What the kernels take of a GPU

From [kernels.json](../benchmarks/results/kernels.json) by `python -m benchmarks.kernels`; nothing here is typed.
{versions}.

Registers and local memory (bytes of stack, where spills go) are a thread's, warps and shared memory (bytes, static and
dynamic) a block's. Occupancy is the share of an SM's 64 warps that find room, as NVIDIA's `cuda_occupancy.h` counts.
Three figures in a cell are for sm_80 (A100), sm_90 (H100, H200) and sm_100 (B200); one figure holds for all.

Each budget, registers at most and occupancy at least, stands in [kernel_budgets.json](../tests/kernel_budgets.json)
and is tested; nothing may have local memory. Triton's registers and occupancy are what 3.6, 3.7 and 3.8 were all seen
to keep to, so a single one may be well within them. One form does have local memory under 3.6: forward, 512 × 8 in
batch, given, on sm_80, 8 bytes.
"""


TITLES = {
    "triton": """## Triton

Configurations are those of [aot.py](../wassrank/triton/aot.py),
[aot_gaussian.py](../wassrank/triton/aot_gaussian.py),
[aot_wasserstein_1d.py](../wassrank/triton/aot_wasserstein_1d.py) and
[aot_embeddings.py](../wassrank/triton/aot_embeddings.py). A kernel that is the same code in several is listed
with the first. Programs of one warp reach 50% at most: an SM holds 32 blocks.
""",
    "native": """## CUDA C++

The library as built, launched for in-batch scores [Q, N] with 8 grades; the sorted kernels for float labels of all
passages ("own": each query has passages of its own), the order's for 512 rows. Those of the batch-Gaussian distance
compute in double whatever the scores are in; tiles and gradient are of all columns at once.
""",
}


def page(result: dict[str, Any]) -> str:
    versions = result["toolchain"]
    cuda = f", CUDA {versions['cuda']}" if versions.get("cuda") else ""
    parts = [INTRODUCTION.format(versions=f"wassrank {versions['wassrank']}, Triton {versions['triton']}{cuda}")]
    rows = [Row(**row) for row in result["rows"]]
    for backend, title in TITLES.items():
        parts.append(title)
        parts.append(table([r for r in rows if r.backend == backend]))
    return "\n".join(parts)


def table(rows: list[Row]) -> str:
    by_form: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda r: (KERNELS[r.backend].index(r.kernel), r.capability)):
        by_form.setdefault((row.kernel, row.configuration), []).append(row)
    alike: dict[tuple[str, ...], list[str]] = {}
    for (kernel, configuration), of in by_form.items():
        limits = budget(of[0].backend, kernel, configuration)
        cells = (
            cell([str(r.warps) for r in of]),
            cell([str(r.registers) for r in of]),
            f"≤ {limits['registers']}",
            cell([str(r.local) for r in of]),
            cell([str(r.shared) for r in of]),
            cell([percent(r.occupancy) for r in of]),
            f"≥ {percent(limits['occupancy'])}",
        )
        alike.setdefault((kernel, *cells), []).append(configuration)
    lines = [
        "| kernel | configuration | warps | registers | budget | local | shared | occupancy | budget |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (kernel, *rest), configurations in alike.items():
        lines.append(
            f"| {' | '.join([kernel.replace('_', ' '), '; '.join(configurations).replace(' x ', ' × '), *rest])} |"
        )
    return "\n".join([*lines, ""])


def percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def cell(figures: list[str]) -> str:
    return figures[0] if len(set(figures)) == 1 else " / ".join(figures)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", choices=PARTS)
    arguments = parser.parse_args()
    if arguments.check:
        if PAGE.read_text(encoding="utf-8") != page(json.loads(RESULT.read_text(encoding="utf-8"))):
            print("docs/kernels.md is not what kernels.json says: run python -m benchmarks.kernels", file=sys.stderr)
            return 1
        return 0
    if arguments.part is not None and arguments.out is None:
        parser.error("--part needs --out: benchmarks/results/kernels.json holds all")
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("Triton compiles nothing where TRITON_INTERPRET is set")
    if arguments.out is None and not built_for().issuperset(SHARED):
        parser.error(
            f"the library lacks CUDA kernels for {[*SHARED]}: WASSRANK_CUDA=1 python setup.py build_ext --inplace"
        )
    measure(arguments.out or RESULT, arguments.part)
    if arguments.out is None:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
