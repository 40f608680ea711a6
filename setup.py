"""Builds wassrank._C: the C++ kernels always, the CUDA kernels where they can be used.

WASSRANK_CUDA=1 builds the CUDA part without a GPU, for sm_80, sm_90 and sm_100; =0 never builds it; unset builds it
where an nvcc and a GPU are found, for that GPU. Everything else about the package is in pyproject.toml.

If no compiler works the package installs without _C and runs on its plain-torch backend, which says so once.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError

ROOT = Path(__file__).parent
# One compilation of the CPU kernels for each, chosen among at run time (csrc/cpu/dispatch.cpp).
INSTRUCTION_SETS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["avx512"] = [
        *INSTRUCTION_SETS["avx2"], "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512",
    ]  # fmt: skip
# Ampere, Hopper, Blackwell data-centre parts.
ARCHITECTURES_WITHOUT_A_GPU = ["80", "90", "100"]
# -fno-trapping-math: or else a choice between two sums is a branch, and its loop no vector code short of AVX-512.
CXX_FLAGS = ["-std=c++20", "-O3", "-fno-trapping-math", "-fopenmp-simd", "-fvisibility=hidden", "-g0", "-Wall"]
# The stable ABI as of torch 2.11: the same binary loads under 2.11 to 2.14.
TORCH_TARGET_VERSION = "0x020b000000000000"


def version() -> str:
    scope: dict[str, str] = {}
    exec((ROOT / "wassrank" / "_version.py").read_text(), scope)
    return scope["__version__"]


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [Path(home) / "bin" / "nvcc"] if home else []
    return next((str(c) for c in candidates if c.exists()), shutil.which("nvcc"))


def other_cuda(nvcc: str, of_torch: str | None) -> str | None:
    """What to say where nvcc's CUDA is of another major version than torch's (None for a torch without CUDA).

    It is built all the same: the kernels use no header of torch's CUDA and carry a runtime of their own, so what the
    two have in common is the driver, and wassrank.backends looks at that before it lets them run.
    """
    answer = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+)\.\d+", answer)
    if release is None or of_torch is None or release[1] == of_torch.split(".")[0]:
        return None
    return (
        f"wassrank: nvcc is of CUDA {release[1]} and torch of CUDA {of_torch}: the CUDA kernels will run where the "
        f"driver serves CUDA {release[1]}; elsewhere Triton's or plain torch will be used"
    )


def gpu_architectures() -> list[str]:
    """Compute capabilities of the GPUs present, as nvcc names them ("90"); none without a driver."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    query = [smi, "--query-gpu=compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return []
    return sorted({line.strip().replace(".", "") for line in answer.stdout.splitlines() if line.strip()})


def cuda_plan() -> tuple[str | None, list[str]]:
    """(nvcc, architectures to compile for); (None, []) where the CUDA part is not built."""
    wanted = os.environ.get("WASSRANK_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"WASSRANK_CUDA must be 0 or 1, got {wanted!r}")
    if wanted == "0":
        return None, []
    nvcc = find_nvcc()
    present = gpu_architectures()
    if wanted == "1" and nvcc is None:
        raise SystemExit("WASSRANK_CUDA=1 but no nvcc was found: put it on PATH or set CUDA_HOME")
    if nvcc is None or (wanted != "1" and not present):
        return None, []
    return nvcc, present if present and wanted != "1" else sorted({*present, *ARCHITECTURES_WITHOUT_A_GPU}, key=int)


class BuildKernels(build_ext):
    """Compiles each source with its own flags (instruction set, nvcc), in parallel, and links them into one module."""

    def run(self) -> None:
        try:
            super().run()
        except (CCompilerError, ExecError, OSError) as error:
            if os.environ.get("WASSRANK_CUDA") == "1" or os.environ.get("WASSRANK_NATIVE") == "1":
                raise
            print(
                f"wassrank: no native kernels, the plain-torch backend will be used ({error})",
                file=sys.stderr,
            )

    def build_extension(self, ext: Extension) -> None:
        import pybind11
        import torch

        torch_root = Path(torch.__file__).parent
        nvcc, architectures = cuda_plan()
        if nvcc is not None and (warning := other_cuda(nvcc, torch.version.cuda)):
            print(warning, file=sys.stderr)
        names = ", ".join(f'"{a}"' for a in architectures)
        includes = [f"-I{ROOT / 'csrc'}"]
        torch_includes = [
            # First: torch 2.11 carries pybind11's headers too, barred to code for the stable ABI.
            f"-I{pybind11.get_include()}",
            f"-I{torch_root / 'include'}",
            *(f"-I{d}" for d in self.compiler.include_dirs),
            *(f"-I{d}" for d in self.include_dirs),
        ]
        binding_flags = [
            f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
            f'-DWASSRANK_VERSION="{version()}"',
            f"-DWASSRANK_WITH_CUDA={int(nvcc is not None)}",
            f"-DWASSRANK_CUDA_ARCHITECTURES={{{names}}}",
        ]
        cxx = os.environ.get("CXX", "c++").split()
        common = [*cxx, "-c", "-fPIC", *CXX_FLAGS, *includes]
        out = Path(self.build_temp)
        out.mkdir(parents=True, exist_ok=True)

        jobs: list[tuple[Path, list[str]]] = [
            (out / "bindings.o", [*common, *torch_includes, *binding_flags, "csrc/bindings.cpp"]),
            (out / "dispatch.o", [*common, "csrc/cpu/dispatch.cpp"]),
        ]
        kernels = [f for f in sorted((ROOT / "csrc" / "cpu").glob("*.cpp")) if f.name != "dispatch.cpp"]
        for isa, flags in INSTRUCTION_SETS.items():
            for source in kernels:
                command = [*common, *flags, f"-DWASSRANK_ISA={isa}", str(source)]
                jobs.append((out / f"{source.stem}.{isa}.o", command))
        targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
        if nvcc is not None:
            for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
                command = [
                    nvcc, "-c", "-std=c++20", "-O3", "--threads", str(len(architectures)),
                    "-Xcompiler", "-fPIC,-fvisibility=hidden",
                    *targets, *includes, str(source),
                ]  # fmt: skip
                jobs.append((out / f"{source.stem}.cu.o", command))

        headers = [*(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.cuh"), ROOT / "setup.py"]
        newest_header = max(h.stat().st_mtime for h in headers)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda job: self.compile_one(*job, newest_header), jobs))

        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # The first object to hold an inline function of the standard library gives it to all: baseline comes before
        # avx2 and avx512, whose copies an older processor could not run. nvcc links what it compiled: it knows its own
        # libraries.
        objects = [str(o) for o, _ in jobs]
        linker = [*cxx, "-shared"] if nvcc is None else [nvcc, "-shared", "-cudart", "static", *targets]
        link = [*linker, *objects, f"-L{torch_root / 'lib'}", "-ltorch_cpu", "-o", str(target)]
        self.execute(link)

    def compile_one(self, target: Path, command: list[str], newest_header: float) -> None:
        """Skips what is newer than its source, every header and this file, and was made by the same command."""
        command = [*command, "-o", str(target)]
        stamp = target.with_suffix(target.suffix + ".command")
        source = next(a for a in command if a.endswith((".cpp", ".cu")))
        if target.exists() and stamp.exists() and stamp.read_text() == "\n".join(command):
            newest = max(newest_header, Path(source).stat().st_mtime)
            if target.stat().st_mtime > newest:
                return
        self.execute(command)
        stamp.write_text("\n".join(command))

    def execute(self, command: list[str]) -> None:
        print(" ".join(command), flush=True)
        try:
            subprocess.run(command, check=True, cwd=ROOT)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            raise CCompilerError(f"{Path(command[0]).name} failed: {error}") from error


setup(ext_modules=[Extension("wassrank._C", sources=[])], cmdclass={"build_ext": BuildKernels})
