"""What only the CPU kernels can get wrong: instruction sets, threads, rows cut into chunks, half types, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import wassrank
from wassrank import _C

TESTS = Path(__file__).parent


@pytest.mark.parametrize("instruction_set", _C.build_info()["cpu_instruction_sets"])
def test_every_instruction_set_passes_the_conformance_table(instruction_set: str) -> None:
    """In a process of its own: the choice is made once, at first use."""
    script = (
        "import sys, torch, test_conformance as t\n"
        "from cases import CASES\n"
        "from wassrank import _C\n"
        f"assert _C.build_info()['cpu_instruction_set_in_use'] == '{instruction_set}'\n"
        "for case in CASES:\n"
        "    for dtype in t.DTYPES:\n"
        "        t.test_backend_equals_float64_reference(case, dtype, ('native', 'cpu'))\n"
    )
    if instruction_set not in offered_here():
        pytest.skip(f"this processor has no {instruction_set}")
    environment = os.environ | {"WASSRANK_CPU_ISA": instruction_set, "PYTHONPATH": str(TESTS)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


def offered_here() -> list[str]:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    needs = {"baseline": [], "avx2": ["avx2", "fma", "f16c"], "avx512": ["avx512f", "avx512bw", "avx512dq", "avx512vl"]}
    return [name for name, wanted in needs.items() if all(f" {flag}" in flags for flag in wanted)]


def test_unknown_instruction_set_is_refused() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from wassrank import _C; _C.build_info()"],
        env=os.environ | {"WASSRANK_CPU_ISA": "mmx"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "ValueError: WASSRANK_CPU_ISA=mmx: this machine offers baseline" in run.stderr


@pytest.mark.parametrize("dense", [False, True])
def test_bits_do_not_depend_on_the_number_of_threads(dense: bool) -> None:
    """Two rows of 100,000: more threads than rows, each row cut into chunks."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 100_000, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (2, 100_000 if dense else 50_000), generator=generator)
    results = []
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            loss = wassrank.grade_wasserstein(scores, labels, p=2)
            results.append((loss.detach(), *torch.autograd.grad(loss, scores)))
    finally:
        torch.set_num_threads(threads)
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])
    reference = wassrank.grade_wasserstein(scores.double(), labels, p=2, backend="torch")
    (want,) = torch.autograd.grad(reference, scores)
    torch.testing.assert_close(results[0][0].double(), reference.detach(), rtol=1e-6, atol=0)
    assert (results[0][1] - want).norm() <= 1e-5 * want.norm()


def test_a_row_of_a_million_passages() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(1, 1_000_000, generator=generator)
    labels = torch.randint(0, 5, (1, 1_000_000), generator=generator, dtype=torch.uint8)
    got = wassrank.grade_wasserstein(scores, labels)
    want = wassrank.grade_wasserstein(scores.double(), labels, backend="torch")
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_value_is_read_exactly_and_gradients_round_to_nearest(dtype: torch.dtype) -> None:
    """All 65,536 bit patterns, a pair of passages a row: the gradient of the pair is a function of the one score."""
    values = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)
    scores = torch.stack([values, torch.zeros_like(values)], 1)
    labels = torch.tensor([[1, 0]]).expand(65536, 2)
    weight = torch.logspace(
        -7, 3, 65536
    )  # gradients over the whole range of the type, subnormal and overflowing ones too

    def gradient(s: torch.Tensor) -> torch.Tensor:
        s = s.clone().requires_grad_()
        loss = wassrank.grade_wasserstein(s, labels, target="linear", weight=weight, reduction="sum", backend="native")
        return torch.autograd.grad(loss, s)[0]

    wide, narrow = gradient(scores.float()), gradient(scores)
    assert torch.equal(wide.to(dtype).nan_to_num(7), narrow.nan_to_num(7))
    assert torch.equal(wide.isnan(), narrow.isnan())


def test_memory_beyond_inputs_and_gradient_is_two_percent_of_the_scores() -> None:
    from torch.profiler import ProfilerActivity, profile

    scores = torch.randn(512, 4096, requires_grad=True)
    labels = torch.randint(0, 4, (512, 8))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        wassrank.grade_wasserstein(scores, labels, p=2).backward()
    allocated = sum(max(0, e.self_cpu_memory_usage) for e in trace.key_averages())
    assert scores.grad is not None
    assert allocated >= scores.grad.nbytes, "the profiler saw no allocation"
    assert allocated - scores.grad.nbytes <= 0.02 * scores.nbytes
