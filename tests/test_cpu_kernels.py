"""What only the CPU kernels can get wrong: instruction sets, threads, rows cut into chunks, half types, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def offsets_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize("losses", [{}, {"info_nce": 0.5, "kl": 0.25}], ids=["plain", "affine"])
@pytest.mark.parametrize("layout", ["in_batch", "dense", "packed"])
def test_bits_do_not_depend_on_the_number_of_threads(layout: str, losses: dict[str, Any]) -> None:
    """Two rows of 100,000: more threads than rows, each row cut into chunks. Packed, among short and empty ones."""
    losses = losses | {"p": 2, "target": "softmax"}  # under which one passage of grade 0 is a list like any other
    generator = torch.Generator().manual_seed(0)
    lengths = [3] * 500 + [100_000, 0, 1] + [700] * 20 + [40_000] + [0] * 5
    offsets = offsets_of(lengths) if layout == "packed" else None
    shape = (2, 100_000) if offsets is None else (sum(lengths),)
    scores = torch.randn(shape, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (2, 50_000) if layout == "in_batch" else shape, generator=generator)
    results = []
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            loss = wassrank.combined_loss(scores, labels, offsets=offsets, **losses)
            results.append((loss.detach(), *torch.autograd.grad(loss, scores)))
    finally:
        torch.set_num_threads(threads)
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])
    if offsets is not None:  # the reference would pad: list by list it is
        whole = [
            wassrank.combined_loss(s[None], y[None], **losses)
            for s, y in zip(scores.split(lengths), labels.split(lengths), strict=True)
            if len(s)
        ]
        (want,) = torch.autograd.grad(torch.stack(whole).mean(), scores)
        torch.testing.assert_close(results[0][0], torch.stack(whole).mean().detach(), rtol=1e-6, atol=0)
        torch.testing.assert_close(results[0][1], want, rtol=1e-6, atol=0)
        return
    exact = scores.double()
    reference = wassrank.combined_loss(exact, labels, backend="torch", **losses)
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


@pytest.mark.parametrize("loss", ["grade_wasserstein", "info_nce", "listwise_kl"])
def test_a_list_of_a_million_among_lists_of_three(loss: str) -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = [3] * 1000 + [1_000_000] + [3] * 1000
    scores = torch.randn(sum(lengths), generator=generator)
    labels = torch.randint(0, 5, scores.shape, generator=generator, dtype=torch.uint8)
    function = getattr(wassrank, loss)
    got = function(scores, labels, offsets=offsets_of(lengths), reduction="none").double()
    first, middle, last = (slice(0, 3000), slice(3000, 1_003_000), slice(1_003_000, None))
    for rows, part, of in ((slice(0, 1000), first, 3), (slice(1000, 1001), middle, -1), (slice(1001, None), last, 3)):
        s, y = (t[part].reshape(-1, of if of > 0 else t[part].numel()) for t in (scores.double(), labels))
        want = function(s, y, reduction="none", backend="torch")
        torch.testing.assert_close(got[rows], want, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_entropy_of_a_given_target_over_all_magnitudes(dtype: torch.dtype) -> None:
    """The kernels' own logarithm, also of 0 and of numbers below the normal range."""
    least = torch.finfo(dtype).smallest_normal
    target = torch.logspace(0, 320 if dtype == torch.float64 else 44, 2001, base=0.1, dtype=torch.float64).to(dtype)
    target = torch.stack([torch.cat([target, torch.zeros(7, dtype=dtype)]), torch.rand(2008, dtype=dtype)])
    scores, labels = torch.zeros_like(target), torch.zeros(target.shape, dtype=torch.uint8)
    got = wassrank.listwise_kl(scores, labels, target=target, reduction="none", backend="native")
    want = wassrank.listwise_kl(scores.double(), labels, target=target.double(), reduction="none", backend="torch")
    assert (target[0, :-7] < least).any()
    torch.testing.assert_close(got.double(), want, rtol=1e-6 if dtype == torch.float32 else 1e-13, atol=0)


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


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_a_million_float_labels_alone_and_among_short_lists(p: float) -> None:
    lengths = [3, 1_000_000, 1, 40]
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(sum(lengths), generator=generator)
    labels = torch.randn(sum(lengths), generator=generator)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    options: dict[str, Any] = {"p": p, "reduction": "none", "kl": 0.5}
    packed = wassrank.combined_loss(scores.requires_grad_(), labels, offsets=offsets, backend="native", **options)
    (gradient,) = torch.autograd.grad(packed.sum(), scores)
    for i, (s, y, g) in enumerate(zip(*(t.detach().split(lengths) for t in (scores, labels, gradient)), strict=True)):
        alone = s.double()[None].requires_grad_()
        want = wassrank.combined_loss(alone, y[None], backend="torch", **options)
        torch.testing.assert_close(packed[i : i + 1].double(), want, rtol=1e-6, atol=1e-7)
        (want_gradient,) = torch.autograd.grad(want, alone)
        assert (g - want_gradient[0]).norm() <= 1e-5 * want_gradient.norm() + 1e-9
