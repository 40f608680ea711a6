"""Compiles the kernels ahead of time, as they would be launched, and reads back what each costs an SM. No GPU needed.

    python -m wassrank.triton.aot                              # sm_80, sm_90, sm_100
    python -m wassrank.triton.aot --capability 90 --json

Configurations come from the host functions themselves, called with meta tensors: what is compiled is what is run. Must
run without TRITON_INTERPRET.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from wassrank.arguments import TRITON_SORTS, Arguments, BackwardArguments, SortedArguments, SortedBackwardArguments
from wassrank.codes import EXCLUDED, Target
from wassrank.reference import Terms
from wassrank.reference.rows import compute_dtype
from wassrank.tuning import TritonTuning, triton_tuning

from . import aot_embeddings, aot_gaussian, aot_wasserstein_1d
from .grade_order import plan_sort
from .launch import ALIGNMENT, WARP, Launch
from .level_losses import plan_forward
from .row_kernels import plan_backward, plan_sorted_backward
from .sorted_losses import plan_forward as plan_sorted_forward

CAPABILITIES = (80, 90, 100)  # A100, H100 and H200, B200


@dataclass(frozen=True)
class Resources:
    """What the compiler says of one kernel."""

    kernel: str
    configuration: str
    capability: int
    warps: int  # a program
    registers: int  # a thread
    local: int  # bytes of local memory a thread: its stack frame, where what has no register is spilled
    shared: int  # bytes a program
    loop_exchanges: int  # shuffles, barriers and shared-memory accesses in its longest loop


# Every form of the kernels that differs in its code: short rows and long, dense, in-batch, excluded and packed, the
# losses, the orders p, the targets, the dtypes, few levels and the most.
WASSERSTEIN, KL, INFO_NCE = Terms(wasserstein=1.0), Terms(kl=1.0), Terms(info_nce=1.0)
ALL = Terms(wasserstein=1.0, info_nce=0.5, kl=0.5)
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "16 passages": {"N": 16},
    "16 passages, p=1.5": {"N": 16, "p": 1.5},
    "33 passages, int8 labels": {"N": 33, "label_dtype": torch.int8},
    "256 passages, given, mask, weight": {"N": 256, "target": "given", "extras": True},
    "256 passages, p=1.5, 32 levels": {"N": 256, "p": 1.5, "num_levels": 32},
    "256 passages, p=1.5, position": {"N": 256, "p": 1.5, "position": True, "label_temperatures": True},
    "4096 passages": {"N": 4096},
    "4096 passages, bf16": {"N": 4096, "dtype": torch.bfloat16},
    "4096 passages, fp64": {"N": 4096, "dtype": torch.float64},
    "4096 passages, 32 levels": {"N": 4096, "num_levels": 32},
    "4096 passages, all losses": {"N": 4096, "terms": ALL},
    "4096 passages, all losses, 32 levels": {"N": 4096, "terms": ALL, "num_levels": 32},
    "64 x 4 in batch": {"Q": 64, "N": 256, "K": 4},
    "64 x 4 in batch, all losses": {"Q": 64, "N": 256, "K": 4, "terms": ALL},
    "512 x 8 in batch": {"Q": 512, "N": 4096, "K": 8},
    "512 x 8 in batch, bf16, mask": {"Q": 512, "N": 4096, "K": 8, "dtype": torch.bfloat16, "p": 2.0, "extras": True},
    "512 x 8 in batch, fp64, p=1.5": {"Q": 512, "N": 4096, "K": 8, "dtype": torch.float64, "p": 1.5},
    "512 x 8 in batch, given": {"Q": 512, "N": 4096, "K": 8, "target": "given"},
    "4096 passages, KL, given": {"N": 4096, "target": "given", "terms": KL},
    "512 x 8 in batch, KL, given": {"Q": 512, "N": 4096, "K": 8, "target": "given", "terms": KL},
    "512 x 8 in batch, InfoNCE, positives": {"Q": 512, "N": 4096, "K": 8, "positive": True, "terms": INFO_NCE},
    "512 x 8 excluded": {"Q": 512, "N": 4096, "K": 8, "in_batch": EXCLUDED},
    "512 packed lists of 30": {"Q": 512, "N": 15360, "packed": True},
    "512 packed lists of 30, all losses": {"Q": 512, "N": 15360, "packed": True, "terms": ALL},
    "512 packed lists of 1000": {"Q": 512, "N": 512_000, "packed": True},
    # Float labels: the sorted path.
    "floats, 16 passages": {"N": 16, "label_dtype": torch.float32},
    "floats, 256 passages, given, mask, weight": {
        "N": 256, "target": "given", "extras": True, "label_dtype": torch.float32
    },
    "floats, 4096 passages": {"N": 4096, "label_dtype": torch.float32},
    "floats, 4096 passages, bf16, p=2, position": {
        "N": 4096, "dtype": torch.bfloat16, "p": 2.0, "position": True, "label_dtype": torch.float32
    },
    "floats, 4096 passages, fp64, p=1.5, all losses": {
        "N": 4096, "dtype": torch.float64, "p": 1.5, "terms": ALL, "label_dtype": torch.float64
    },
    "floats, 4096 passages, exp2, all losses": {
        "N": 4096, "target": "exp2", "terms": ALL, "label_dtype": torch.float32
    },
    "floats, 512 x 8 in batch": {"Q": 512, "N": 4096, "K": 8, "label_dtype": torch.float32},
    "floats, 512 x 8 in batch, p=2, all losses": {
        "Q": 512, "N": 4096, "K": 8, "p": 2.0, "terms": ALL, "label_dtype": torch.float32
    },
    "floats, 512 x 8 in batch, all losses, given": {
        "Q": 512, "N": 4096, "K": 8, "target": "given", "terms": ALL, "label_dtype": torch.float32
    },
    "floats, 512 x 8 excluded, mask": {
        "Q": 512, "N": 4096, "K": 8, "in_batch": EXCLUDED, "extras": True, "label_dtype": torch.float32
    },
    "floats, 512 packed lists of 30": {"Q": 512, "N": 15360, "packed": True, "label_dtype": torch.float32},
    "floats, 512 packed lists of 1000, p=2, all losses": {
        "Q": 512, "N": 512_000, "packed": True, "p": 2.0, "terms": ALL, "label_dtype": torch.float32
    },
}  # fmt: skip


FAMILIES = (aot_gaussian, aot_wasserstein_1d, aot_embeddings)
"""Modules that have configurations of other losses' kernels."""


def launches_of(configuration: str, tuning: TritonTuning) -> dict[str, Launch]:
    """One step's, by kernel."""
    for others in FAMILIES:
        if configuration in others.CONFIGURATIONS:
            return by_kernel(others.example(**others.CONFIGURATIONS[configuration]))
    return example(tuning, **CONFIGURATIONS[configuration])


def example(
    tuning: TritonTuning,
    *,
    Q: int = 512,
    N: int,  # packed: of all lists
    K: int | None = None,
    packed: bool = False,
    dtype: torch.dtype = torch.float32,
    label_dtype: torch.dtype = torch.int64,  # a floating one: the sorted path
    num_levels: int = 8,
    p: float = 1.0,
    target: str = "softmax",
    in_batch: int = 0,
    terms: Terms = WASSERSTEIN,
    extras: bool = False,  # mask and weight
    position: bool = False,
    label_temperatures: bool = False,
    positive: bool = False,
) -> dict[str, Launch]:
    """The launches of one step, on meta tensors, by kernel."""
    empty = functools.partial(torch.empty, device="meta")
    C = compute_dtype(dtype)
    shape, labels_shape = ((N,), (N,)) if packed else ((Q, N), (Q, K or N))
    shared: dict[str, Any] = {
        "scores": empty(shape, dtype=dtype),
        "target": empty(shape, dtype=C) if target == "given" else None,
        "mask": empty(labels_shape, dtype=torch.bool) if extras else None,
        "weight": empty(Q, dtype=C) if extras else None,
        "label_temperatures": empty(Q, dtype=C) if label_temperatures else None,
        "positives": empty(Q, dtype=torch.int64) if positive else None,
        "offsets": empty(Q + 1, dtype=torch.int64) if packed else None,
        "wasserstein": terms.wasserstein,
        "info_nce": terms.info_nce,
        "kl": terms.kl,
        "target_kind": int(Target[target]),
        "in_batch": in_batch,
        "p": p,
        "temperature": 0.05,
    }
    if label_dtype.is_floating_point:
        labels = empty(labels_shape, dtype=C)
        order = empty(labels_shape, dtype=torch.int32)
        return sorted_example(
            SortedArguments(labels=labels, order=order, position=labels if position else None, **shared), tuning
        )
    a = Arguments(
        labels=empty(labels_shape, dtype=label_dtype),
        position=torch.arange(num_levels, dtype=torch.float64) if position else None,
        num_levels=num_levels,
        **shared,
    )
    (loss, state, scale), launches = plan_forward(a, tuning)
    given, positives = a.target if a.kl else None, a.positives if a.info_nce else None
    b = BackwardArguments(
        loss, a.scores, a.labels, given, a.mask, positives, a.offsets, state, scale, in_batch, num_levels, a.temperature
    )
    _, backward = plan_backward(b, tuning)
    return by_kernel([*launches, backward])


def sorted_example(a: SortedArguments, tuning: TritonTuning) -> dict[str, Launch]:
    """The sort too, where it is Triton's."""
    (loss, coefficient, constant, state, scale), launches = plan_sorted_forward(a, tuning)
    b = SortedBackwardArguments(
        loss,
        a.scores,
        coefficient,
        constant if a.affine else None,
        a.target if a.kl and a.labels.shape != a.scores.shape else None,
        a.mask,
        a.offsets,
        state,
        scale,
        a.temperature,
    )
    _, backward = plan_sorted_backward(b, tuning)
    if a.offsets is None and a.labels.dtype == torch.float32 and a.labels.shape[1] <= TRITON_SORTS:
        launches.append(plan_sort(a.labels)[1])
    return by_kernel([*launches, backward])


def by_kernel(launches: Sequence[Launch]) -> dict[str, Launch]:
    return {launch.kernel.fn.__name__.removesuffix("_kernel"): launch for launch in launches}


TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "u1",
}


def source(launch: Launch) -> ASTSource:
    """What Triton's own launcher would compile: the same types, the same specialisation on 1 and multiples of 16."""
    signature: dict[str, str] = {}
    fixed: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for i, parameter in enumerate(launch.kernel.params):
        name, value = parameter.name, launch.arguments[parameter.name]
        specialised = type(value) is int and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (specialised and value == 1):
            signature[name], fixed[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = "*" + TYPES[value.dtype]
        elif parameter.annotation_type:
            signature[name] = parameter.annotation_type
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
        # torch's allocations are aligned to more than 16 bytes.
        if isinstance(value, Tensor) or (specialised and name not in fixed and value % ALIGNMENT == 0):
            attributes[(i,)] = [["tt.divisibility", ALIGNMENT]]
    return ASTSource(launch.kernel, signature, fixed, attributes)


def compile_one(kernel: str, configuration: str, capability: int) -> Resources:
    launch = launches_of(configuration, triton_tuning(capability))[kernel]
    compiled = triton.compile(source(launch), target=GPUTarget("cuda", capability, WARP), options=launch.options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(compiled.asm["cubin"])
        (usage,) = usages(path)
    return Resources(
        kernel=kernel,
        configuration=configuration,
        capability=capability,
        warps=launch.num_warps,
        registers=usage.registers,
        local=usage.local,
        shared=compiled.metadata.shared,
        loop_exchanges=loop_exchanges(compiled.asm["ptx"]),
    )


@dataclass(frozen=True)
class Usage:
    """Of one kernel of a binary."""

    capability: int  # 0 in a cubin, which is all for one and does not say which
    function: str  # its name, mangled
    registers: int
    local: int
    shared: int  # static, without the system's; what a launch asks for comes on top


RESERVED_SHARED = 1024
"""Bytes of a block that the system has from sm_90 on. Its binaries count them (.nv.shared.reserved), sm_80's do not,
though there too an SM gives them up for each block."""


def usages(binary: Path) -> list[Usage]:
    """Of every kernel in a cubin or a library, from the cuobjdump that Triton brings."""
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    listing = subprocess.run([cuobjdump, "-res-usage", binary], check=True, capture_output=True, text=True).stdout
    found = []
    capability = 0
    number = r"(\d+)"
    for match in re.finditer(
        rf"arch = sm_{number}|Function ([\w$]+):\s+REG:{number} STACK:{number} SHARED:{number} LOCAL:{number}", listing
    ):
        architecture, function, *numbers = match.groups()
        if architecture:
            capability = int(architecture)
        else:
            registers, stack, shared, local = map(int, numbers)
            shared -= RESERVED_SHARED if capability >= 90 else 0
            found.append(Usage(capability, function, registers, stack + local, max(0, shared)))
    return found


def loop_exchanges(ptx: str) -> int:
    """A loop is what lies between a label and a branch back to it; the longest is the sweep over the widest blocks."""
    lines = ptx.splitlines()
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"\$\w+:", line)}
    body: list[str] = []
    for i, line in enumerate(lines):
        branch = re.search(r"\bbra(?:\.uni)?\s+(\$\w+)", line)
        if branch:
            body = max(body, lines[labels.get(branch[1], i) : i], key=len)
    return sum(bool(re.search(r"\b(?:shfl|bar|(?:ld|st)\.shared)[.:]", line)) for line in body)


Job = tuple[str, str, int]
"""Kernel, configuration, capability."""


def jobs(capabilities: Sequence[int]) -> Iterator[Job]:
    """Of all that differ in their code."""
    for capability in capabilities:
        seen = set()
        for name in itertools.chain(CONFIGURATIONS, *(others.CONFIGURATIONS for others in FAMILIES)):
            for kernel, launch in launches_of(name, triton_tuning(capability)).items():
                code = (kernel, source(launch).hash(), launch.num_warps)
                if code not in seen:
                    seen.add(code)
                    yield kernel, name, capability


def compile_all(wanted: Sequence[Job], workers: int = 2) -> list[Resources]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(compile_one, *zip(*wanted, strict=True)))


def table(results: Sequence[Resources]) -> str:
    lines = [f"{'':46}  sm  warps  registers  local  shared  loop exchanges"]
    lines += [
        f"{r.kernel + ': ' + r.configuration:46} {r.capability:3}  {r.warps:5}  {r.registers:9}"
        f"  {r.local:5}  {r.shared:6}  {r.loop_exchanges:14}"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--capability", type=int, nargs="+", default=CAPABILITIES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = compile_all(list(jobs(arguments.capability)), arguments.workers)
    print(json.dumps([asdict(r) for r in results]) if arguments.json else table(results))


if __name__ == "__main__":
    main()
