"""`python -m benchmarks.kernels`: what every kernel takes of an SM, read back from the compiled code. Needs no GPU.

Triton's kernels are compiled for sm_80, sm_90 and sm_100 in every configuration of wassrank.triton.aot; the CUDA
kernels are those of the library as built, in the launches it would make. Rows go to benchmarks/results/kernels.json and
from there, with their budgets (tests/kernel_budgets.json), to docs/kernels.md. With --check nothing is compiled and it
fails if docs/kernels.md does not hold what the JSON says; with --out the rows go to another file and nothing else is
written.
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

import wassrank
from benchmarks.occupancy import SHARED, occupancy
from wassrank.backends import missing

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "kernels.json"
BUDGETS = ROOT / "tests" / "kernel_budgets.json"
PAGE = ROOT / "docs" / "kernels.md"


# In the order of a step.
KERNELS = ("sort", "forward", "sorted_forward", "quantiles", "coefficients", "reduce", "backward")


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


def triton_rows() -> Iterator[Row]:
    from wassrank.triton import aot

    for r in aot.compile_all():
        resident = occupancy(r.capability, r.warps, r.registers, r.shared)
        yield Row("triton", occupancy=resident, **asdict(r))


# In-batch, float32 … at the smallest size worth a GPU, the README's large one, and one that fills any GPU. [Q, N], K.
SIZES = {"64 x 256": (64, 256, 4), "512 x 4096": (512, 4096, 8), "4096 x 32768": (4096, 32768, 8)}
MANGLED = {"float64": "d", "float32": "f", "float16": "4Half", "bfloat16": "8BFloat16"}


def built_for() -> set[int]:
    """Compute capabilities the library holds CUDA kernels for."""
    if missing("native", "cpu") is not None:
        return set()
    from wassrank import _C

    return {int(a) for a in _C.build_info()["cuda_architectures"]}


def native_rows() -> Iterator[Row]:
    """No rows where the library holds no CUDA kernels."""
    architectures = built_for()
    if not architectures:
        return
    from wassrank import _C
    from wassrank.triton import aot

    assert _C.__file__ is not None
    usages = aot.usages(Path(_C.__file__))
    for dtype, (size, (Q, N, K)), affine, capability in itertools.product(
        MANGLED, SIZES.items(), (False, True), sorted(architectures & {*SHARED})
    ):
        for launch in _C.level_losses_launches(
            dtype, Q, N, K, in_batch=0, num_levels=8, reduced=True, capability=capability, affine=affine
        ):
            kernel = launch["kernel"].removesuffix("_kernel")
            configuration = f"{dtype}, {size}{', all losses' if affine else ''}"
            form = f"E?Lb{affine:d}E"  # the template's second argument
            if kernel == "reduce":  # of numbers of the computing type, always one block
                if dtype in {"float16", "bfloat16"} or size != next(iter(SIZES)) or affine:
                    continue
                configuration, form = dtype, ""
            name = re.compile(rf"\d{kernel}_kernelI(?:\w+_)?{MANGLED[dtype]}{form}E")
            (usage,) = (u for u in usages if u.capability == capability and name.search(u.function))
            warps, shared = math.prod(launch["block"]) // 32, usage.shared + launch["shared_bytes"]
            yield Row(
                backend="native",
                kernel=kernel,
                configuration=configuration,
                capability=capability,
                warps=warps,
                registers=usage.registers,
                local=usage.local,
                shared=shared,
                occupancy=occupancy(capability, warps, usage.registers, shared),
            )


def toolchain() -> dict[str, str]:
    import triton

    versions = {"wassrank": wassrank.__version__, "triton": str(triton.__version__)}
    if missing("native", "cpu") is None:
        from wassrank import _C

        versions["cuda"] = _C.build_info()["cuda_version"]
    return versions


def measure(out: Path) -> None:
    rows = [*triton_rows(), *native_rows()]
    lines = ",\n".join(json.dumps({k: v for k, v in asdict(row).items() if v is not None}) for row in rows)
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

Configurations are those of [aot.py](../wassrank/triton/aot.py). A kernel that is the same code in several is listed
with the first. Programs of one warp reach 50% at most: an SM holds 32 blocks.
""",
    "native": """## CUDA C++

The library as built, launched for in-batch scores [Q, N] with 8 grades.
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
    for row in sorted(rows, key=lambda r: (KERNELS.index(r.kernel), r.capability)):
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
        lines.append(f"| {' | '.join([kernel, '; '.join(configurations).replace(' x ', ' × '), *rest])} |")
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
    arguments = parser.parse_args()
    if arguments.check:
        if PAGE.read_text(encoding="utf-8") != page(json.loads(RESULT.read_text(encoding="utf-8"))):
            print("docs/kernels.md is not what kernels.json says: run python -m benchmarks.kernels", file=sys.stderr)
            return 1
        return 0
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("Triton compiles nothing where TRITON_INTERPRET is set")
    if arguments.out is None and not built_for().issuperset(SHARED):
        parser.error(
            f"the library lacks CUDA kernels for {[*SHARED]}: WASSRANK_CUDA=1 python setup.py build_ext --inplace"
        )
    measure(arguments.out or RESULT)
    if arguments.out is None:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
