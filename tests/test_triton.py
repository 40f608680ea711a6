"""The Triton kernels: the conformance table, and what only they can get wrong.

Without a GPU the kernels run in Triton's interpreter. Triton decides that when it is imported, so this module runs
itself once more in a process of its own where TRITON_INTERPRET is set; there `device` is the CPU, here it is a GPU.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import itertools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import interpreter
import pytest
import test_conformance as conformance
import torch
from cases import LEVEL_CASES as CASES
from cases import Case
from test_operators import CHECKED, backward_arguments, operator_arguments
from torch import Tensor

import wassrank
from wassrank.arguments import Arguments
from wassrank.backends import missing
from wassrank.codes import EXCLUDED, Reduction, Target
from wassrank.reference.rows import Rows, padded, rows_of
from wassrank.tuning import TRITON_ALLOWED, TritonTuning, override

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

ROOT = Path(__file__).parents[1]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    interpreter.quicken()
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def also_combined(case: Case) -> bool:
    """Whether InfoNCE or KL alone, on inputs that the table has for all losses together too."""
    same = f"combined_loss_{case.name.removeprefix(case.loss + '_')}"
    return case.loss in {"info_nce", "listwise_kl"} and any(c.name == same for c in CASES)


# The interpreter takes its time: there what one kernel with everything in it shows is not asked of each loss alone.
every_form = pytest.mark.parametrize(
    "case", [c for c in CASES if not (INTERPRETED and also_combined(c))], ids=lambda c: c.name
)


@pytest.fixture(params=["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def version(package: str) -> tuple[int, ...]:
    if importlib.util.find_spec(package) is None:
        return (0,)
    return tuple(int(n) for n in importlib.metadata.version(package).split(".")[:2])


def once_outside(test: Any) -> Any:
    """For the test that runs its file in the interpreter."""
    too_new = version("triton") < (3, 7) and version("numpy") >= (2, 4)
    test = pytest.mark.skipif(too_new, reason="Triton 3.6 interprets with numpy < 2.4 only")(test)
    return pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")(test)


@once_outside
def test_everything_here_in_the_interpreter() -> None:
    run_in_the_interpreter(__file__)


def run_in_the_interpreter(tests: str, marked: str = "not full") -> None:
    command = [sys.executable, "-m", "pytest", tests, "-m", f"not gpu and {marked}", "-p", "no:cacheprovider"]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=ROOT, capture_output=True, text=True)
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr


@every_case
@pytest.mark.parametrize("dtype", conformance.DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_equals_float64_reference(case: Case, dtype: torch.dtype, device: str) -> None:
    if INTERPRETED and case.loss != "grade_wasserstein" and dtype != torch.float32:
        pytest.skip("dtypes are read and written by code that all losses share; a GPU runs these too")
    conformance.test_backend_equals_float64_reference(case, dtype, ("triton", device))


@pytest.mark.parametrize(
    "case", [c for c in CASES if not INTERPRETED or c.mask is not None or c.edit is not None], ids=lambda c: c.name
)
def test_finite_for_finite_input_and_zero_where_no_passage_is(case: Case, device: str) -> None:
    conformance.test_finite_for_finite_input_and_zero_where_no_passage_is(case, ("triton", device))


@pytest.mark.parametrize(
    "case",
    [
        c
        for c in CASES
        if c.name
        in {"in_batch_p2", "dense_masked_given", "wide", "none", "combined_given", "packed_combined_loss_long"}
    ],
    ids=lambda c: c.name,
)
def test_same_bits_each_run_and_second_backward_equals_first(case: Case, device: str) -> None:
    conformance.test_same_bits_each_run_and_second_backward_equals_first(case, ("triton", device))


@every_form
def test_touches_nothing_outside_its_tensors_and_leaves_nothing_unwritten(case: Case, device: str) -> None:
    """Every tensor a kernel is given lies between two stretches of poison, and those it writes begin as poison."""
    from wassrank.triton.level_losses import plan_forward
    from wassrank.triton.row_kernels import plan_backward

    a = operator_arguments(case, device)
    want = list(torch.ops.wassrank.level_losses_triton(*a))
    grad_loss = torch.ones_like(want[0])
    want.append(torch.ops.wassrank.level_losses_backward_triton(*backward_arguments(a, grad_loss, *want[1:])))

    outputs, launches = plan_forward(a, TritonTuning())
    gradient, launch = plan_backward(backward_arguments(a, grad_loss, *outputs[1:]), TritonTuning())
    guards = Guards()
    for written in ({"row_loss", "row_weight", "state"}, {"loss", "scale"}, {"grad_scores"}):
        for one in [*launches, launch]:
            if written <= one.arguments.keys():
                dataclasses.replace(one, arguments=guards.around(one.arguments, written)).run()
    for got, expected in zip((*outputs, gradient), want, strict=True):
        assert torch.equal(guards.inside(got).nan_to_num(7), expected.nan_to_num(7))
    guards.check()


class Guards:
    """Copies of tensors with poison before and after: scores and masses that would be missed, labels that stray, a mask
    that says "real"."""

    MARGIN = 64
    POISON = 77

    def __init__(self) -> None:
        self.buffers: dict[tuple[Any, ...], Tensor] = {}

    def around(self, arguments: dict[str, Any], written: set[str]) -> dict[str, Any]:
        return {
            name: self.guarded(value, name in written) if isinstance(value, Tensor) else value
            for name, value in arguments.items()
        }

    def guarded(self, tensor: Tensor, is_written: bool) -> Tensor:
        if self.key(tensor) not in self.buffers:
            poison = True if tensor.dtype == torch.bool else self.POISON
            self.buffers[self.key(tensor)] = tensor.new_full((tensor.numel() + 2 * self.MARGIN,), poison)
            if not is_written:
                self.inside(tensor).copy_(tensor)
        return self.inside(tensor)

    def inside(self, tensor: Tensor) -> Tensor:
        buffer = self.buffers.get(self.key(tensor))
        return tensor if buffer is None else buffer[self.MARGIN : -self.MARGIN].view(tensor.shape)

    def check(self) -> None:
        for buffer in self.buffers.values():
            margins = torch.cat([buffer[: self.MARGIN], buffer[-self.MARGIN :]])
            assert (margins == (True if buffer.dtype == torch.bool else self.POISON)).all()

    @staticmethod
    def key(tensor: Tensor) -> tuple[Any, ...]:
        return tensor.data_ptr(), tensor.numel(), tensor.dtype


@pytest.mark.skipif(missing("native", "cpu") is not None, reason="the C++ extension is not built")
@every_form
def test_keeps_for_the_backward_what_the_native_kernels_keep(case: Case, device: str) -> None:
    """Coefficients of every level up to the row's highest, also of levels that have no probability."""
    a = operator_arguments(case)
    (loss, state, scale), got = (
        getattr(torch.ops.wassrank, name)(*operator_arguments(case, at))
        for name, at in (("level_losses", "cpu"), ("level_losses_triton", device))
    )
    L, rows = a.num_levels, rows_as_the_reference_has_them(a)
    none = torch.full((a.queries, 1), -1)
    highest = torch.cat([none, torch.where(rows.real, rows.grades, -1)], 1).amax(1)
    read = torch.ones_like(state, dtype=torch.bool)
    read[:, :L] = torch.arange(L) <= highest[:, None]
    if state.shape[1] > L + 1:
        read[:, L : 2 * L] = read[:, :L]
        read[:, 2 * L] = (rows.real & ~rows.own).any(1)
        read[:, 2 * L + 1] = False
        if a.info_nce and a.positives is not None:
            positive = rows.own & (rows.own.cumsum(1) - 1 == a.positives[:, None])
            read[:, 2 * L + 1] = (rows.real & positive).any(1)
    for ours, theirs, compared in zip(got, (loss, state, scale), (None, read, None), strict=True):
        compared = theirs.isfinite() if compared is None else compared & theirs.isfinite()
        torch.testing.assert_close(ours.cpu()[compared], theirs[compared], rtol=1e-11, atol=1e-14)


def rows_as_the_reference_has_them(a: Arguments) -> Rows:
    scores, labels, mask = a.scores, a.labels, a.mask
    if a.offsets is not None:
        width = int(a.offsets.diff().max())
        mask = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
        scores, labels, mask = (padded(t, a.offsets, width) for t in (scores, labels, mask))
    return rows_of(scores, labels, mask, None if a.in_batch == EXCLUDED else a.in_batch, a.num_levels)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        *itertools.product(["grade_wasserstein"], ["softmax", "linear", "given"]),
        ("info_nce", None),
        ("listwise_kl", "softmax"),
        ("combined_loss", "given"),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "stray"),
    [
        (torch.int64, 2**32),  # 0, if wrapped to 32 bits
        (torch.int64, -(2**40) + 1),
        (torch.int32, 8),
        (torch.int16, -1),
        (torch.int8, -128),
        (torch.uint8, 255),
    ],
)
def test_a_stray_label_makes_its_row_nan_and_no_other(
    dtype: torch.dtype, stray: int, loss: str, target: str | None, device: str
) -> None:
    """Also where the row is asked for nothing else, and not where the passage is masked."""
    labels = torch.tensor([[0, 0, 1], [0, 0, 0], [3, 2, 1], [0, 1, 3]], dtype=dtype, device=device)
    labels[1, 1] = labels[2, 2] = stray
    mask = torch.ones(labels.shape, dtype=torch.bool, device=device)
    mask[2, 2] = False
    for width in (3, 12):
        scores = torch.linspace(-1, 2, 4 * width, device=device).reshape(4, width).requires_grad_()
        options: dict[str, Any] = {"mask": mask, "num_levels": 8, "in_batch": None, "backend": "triton"}
        if target is not None:
            options["target"] = torch.zeros(4, 3, device=device) if target == "given" else target
        if loss == "combined_loss":
            options |= {"info_nce": 0.5, "kl": 0.5}
        losses = getattr(wassrank, loss)(scores, labels, reduction="none", **options)
        (gradient,) = torch.autograd.grad(losses.sum(), scores)
        assert losses.isnan().tolist() == [False, True, False, False]
        own = gradient if width == 3 else torch.stack([gradient[i, 3 * i : 3 * i + 3] for i in range(4)])
        assert own[1].isnan().all()
        assert own[[0, 2, 3]].isfinite().all()
        assert own[2, 2] == 0


@pytest.mark.parametrize("p", [1.0, 2.0, 1.5])
@pytest.mark.parametrize("dtype", conformance.DTYPES)
def test_gradient_is_zero_where_p_equals_t(p: float, dtype: torch.dtype, device: str) -> None:
    labels = torch.tensor([[0, 1, 2, 3, 3, 1, 0], [0, 0, 0, 0, 0, 0, 7], [5, 5, 0, 2, 2, 2, 2]], device=device)
    scores = labels.to(dtype).requires_grad_()
    loss = wassrank.grade_wasserstein(scores, labels, p=p, target="softmax", backend="triton")
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.abs() < 1e-6
    # Across a gap between grades the potential's steps cancel; those of an odd p do so up to float64's rounding.
    assert gradient.abs().max() <= (0 if p in {1.0, 2.0} else 1e-15)


@pytest.mark.parametrize("num_levels", [1, 2, 3, 8, 17, 32])
@pytest.mark.parametrize("N", [1, 3, 16, 33, 400])
def test_any_width_and_any_number_of_levels(N: int, num_levels: int, device: str) -> None:
    generator = torch.Generator().manual_seed(N)
    scores = torch.randn(3, N, dtype=torch.float64, generator=generator).to(device).requires_grad_()
    labels = torch.randint(0, num_levels, (3, N), generator=generator).to(device)
    got, want = (
        torch.autograd.grad(f.sum(), scores)[0]
        for f in (
            wassrank.grade_wasserstein(scores, labels, num_levels=num_levels, p=1.3, backend="triton"),
            wassrank.grade_wasserstein(scores, labels, num_levels=num_levels, p=1.3, backend="torch"),
        )
    )
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.name in CHECKED & {"column_mask", "none", "no_query", "combined_given", "packed_positives"}],
    ids=lambda c: c.name,
)
def test_opcheck(case: Case, device: str) -> None:
    a = operator_arguments(case, device)
    forward = torch.ops.wassrank.level_losses_triton.default
    torch.library.opcheck(forward, a._replace(scores=a.scores.clone().requires_grad_()))
    loss, state, scale = forward(*a)
    backward = backward_arguments(a, torch.ones_like(loss), state, scale)
    torch.library.opcheck(torch.ops.wassrank.level_losses_backward_triton.default, backward)


def test_compiles_without_a_graph_break_and_gives_the_same(device: str) -> None:
    scores = torch.randn(4, 12, device=device, requires_grad=True)
    labels = torch.randint(0, 4, (4, 3), device=device)

    def step(s: Tensor) -> Tensor:
        return wassrank.grade_wasserstein(2 * s, labels, p=2.0, backend="triton").exp()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    (want,) = torch.autograd.grad(step(scores), scores)
    (got,) = torch.autograd.grad(compiled(scores), scores)
    assert torch.equal(got, want)


@pytest.mark.skipif(INTERPRETED, reason="about a process without the interpreter")
def test_cpu_tensors_without_the_interpreter_are_refused_with_the_remedy() -> None:
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        torch.ops.wassrank.level_losses_triton(*operator_arguments(CASES[0]))


@pytest.mark.skipif(INTERPRETED, reason="once is enough")
def test_importing_wassrank_does_not_import_its_triton_kernels() -> None:
    program = "import sys, wassrank; assert 'wassrank.triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def drawn(seed: int) -> dict[str, int]:
    """Any allowed tuning."""
    generator = random.Random(seed)
    return {name: generator.choice(allowed) for name, allowed in TRITON_ALLOWED.items()}


TUNINGS = {
    "default": {},
    "least": {name: min(allowed) for name, allowed in TRITON_ALLOWED.items()},
    "most": {name: max(allowed) for name, allowed in TRITON_ALLOWED.items()},
    "drawn": drawn(1),
    "drawn again": drawn(2),
}
# Of the table those that tiles can be wrong for.
TUNED = {
    "given", "in_batch_p3_many_levels", "dense_six_levels", "odd_width", "combined_given", "packed_combined_loss_long",
}  # fmt: skip
every_tuning = pytest.mark.parametrize("tuning", TUNINGS.values(), ids=TUNINGS.keys())


@every_tuning
@pytest.mark.parametrize("num_levels", [1, 5, 32])
@pytest.mark.parametrize("K", [0, 1, 7, 64, 5000])
def test_tiles_cover_a_block_and_fit_a_program(K: int, num_levels: int, tuning: dict[str, int]) -> None:
    from wassrank.triton.launch import WARP, backward_tile, forward_tile, packed_backward_tile, packed_forward_tile

    numbers = TritonTuning(**tuning)
    for tile in (
        *(forward_tile(N, K, N - K, num_levels, x, x, 1, 1, numbers) for N in (K, 64 * K) for x in (False, True)),
        *(packed_forward_tile(Q, Q * K, num_levels, x, numbers) for Q in (0, 7, 1000) for x in (False, True)),
    ):
        assert tile.levels >= max(2, num_levels)
        assert tile.num_warps <= numbers.max_warps
        for block in (tile.own, tile.others):
            sizes = (tile.rows, block.unroll, block.lanes, block.vector)
            assert all(n > 0 and n & (n - 1) == 0 for n in sizes)
            assert block.lanes <= WARP * tile.num_warps
    backward = backward_tile(K, numbers)
    assert backward.rows * backward.block == numbers.backward_scores
    packed = packed_backward_tile(7, 7 * K, numbers)
    assert packed.rows == 1
    assert packed.block <= numbers.backward_scores
    assert 1 <= packed.num_warps <= numbers.backward_warps


@every_tuning
@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.name in TUNED],
    ids=lambda c: c.name,
)
def test_any_tuning_gives_the_same(case: Case, tuning: dict[str, int], device: str) -> None:
    with override("triton", tuning):
        conformance.test_backend_equals_float64_reference(case, torch.float32, ("triton", device))


@dataclasses.dataclass(frozen=True)
class Huge:
    """Rows of which the last lie past 2^31 scores."""

    Q: int
    N: int
    K: int | None = None
    in_batch: int = 0
    whole_mask: bool = False  # [Q, N] instead of the labels' shape
    given: bool = False  # a target [Q, N]
    packed: bool = False  # Q lists of N
    affine: bool = False  # all losses; the positives named


HUGE = {
    "dense, given": Huge(66_000, 33_000, given=True),
    "in batch": Huge(33_000, 66_000, K=2, in_batch=2),
    "in batch, given, a mask a row": Huge(33_000, 66_000, K=2, whole_mask=True, given=True),
    "in batch, all losses, given": Huge(33_000, 66_000, K=2, affine=True, given=True),
    "excluded": Huge(12_001, 192_016, K=16, in_batch=EXCLUDED),  # the last program has but one row
    "packed": Huge(66_000, 33_000, packed=True),
    "packed, all losses": Huge(66_000, 33_000, packed=True, affine=True),
    # Several rows a program, the last program not full; state and losses past 2^31 too.
    "short rows": Huge(2**31 + 3, 6),
}


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU test_rows_past_two_to_the_31st_score runs every row")
@pytest.mark.parametrize("huge", HUGE.values(), ids=HUGE.keys())
def test_offsets_past_two_to_the_31st_element(huge: Huge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last program of the forward and the last row of programs of the backward, with the sizes, strides and program
    numbers of the whole, over files that are holes but for the last rows."""
    from wassrank.triton.level_losses import plan_forward
    from wassrank.triton.row_kernels import plan_backward

    Q, N, K = huge.Q, huge.N, huge.K or huge.N
    levels, temperature = 4, 0.5
    info_nce, kl = (0.5, 0.25) if huge.affine else (0.0, 0.0)
    empty = functools.partial(torch.empty, device="meta")
    shape, labels_shape = ((Q * N,), (Q * N,)) if huge.packed else ((Q, N), (Q, K))
    a = Arguments(
        scores=empty(shape, dtype=torch.bfloat16),
        labels=empty(labels_shape, dtype=torch.int8),
        target=empty(shape) if huge.given else None,
        mask=empty(shape if huge.whole_mask else labels_shape, dtype=torch.bool),
        weight=empty(Q),
        positives=empty(Q, dtype=torch.int64) if huge.affine else None,
        offsets=empty(Q + 1, dtype=torch.int64) if huge.packed else None,
        info_nce=info_nce,
        kl=kl,
        target_kind=int(Target.given if huge.given else Target.softmax),
        reduction=int(Reduction.none),
        in_batch=huge.in_batch,
        num_levels=levels,
        temperature=temperature,
    )
    (loss, state, scale), (forward,) = plan_forward(a, TritonTuning())
    # The backward's gradient of the loss is a tensor of its own: the forward has written the losses.
    _, backward = plan_backward(backward_arguments(a, empty(Q), state, scale), TritonTuning())

    holes = Holes(tmp_path)
    forward, backward = holes.under(forward), holes.under(backward)
    first = (forward.grid[0] - 1) * forward.arguments["ROWS"]

    def last(launch: Any, name: str) -> Tensor:
        """The rows of the forward's last program; packed lists as rows too."""
        whole: Tensor = launch.arguments[name]
        return whole.view(Q, -1)[first:] if len(whole) == Q * N else whole[first:]

    generator = torch.Generator().manual_seed(0)
    scores, labels, weight = (last(forward, name) for name in ("scores", "labels", "weight"))
    scores.copy_(torch.randn(scores.shape, generator=generator))
    labels.copy_(torch.randint(0, levels, labels.shape, generator=generator))
    # The own passages' share of P must be seen, and not be that of T.
    scores[:, -K:] += labels + (0 if K == N else 6)
    weight.copy_(torch.rand(weight.shape, generator=generator))
    if huge.given:
        last(forward, "target").copy_(torch.rand(scores.shape, generator=generator))
    if huge.affine:
        last(forward, "positives")[:] = 1
    if huge.packed:
        forward.arguments["offsets"][first:] = N * torch.arange(first, Q + 1)
    # A flag for each passage of the batch, when it serves every row.
    a_flag_a_score = huge.packed or forward.arguments["mask"].shape == shape
    flags = last(forward, "mask") if a_flag_a_score else forward.arguments["mask"].view(-1)[-(Q - first) * N :]
    flags.copy_(torch.rand(flags.shape, generator=generator) > 0.3)
    flags.view(-1, N)[:, N - K + 1] = True  # the positive
    backward.arguments["scale"].fill_(1)
    backward.arguments["grad_loss"][first:] = 1

    run_last(forward, monkeypatch)
    run_last(backward, monkeypatch)

    if K == N:
        grades, real, positive = labels, flags.view(-1, N), 1
    else:  # one row, whose own passages are the last
        grades = torch.full((1, N), max(huge.in_batch, 0))
        grades[:, -K:] = labels
        real = flags.view(1, N) & ((torch.arange(N) >= N - K) | (huge.in_batch != EXCLUDED))
        positive = N - K + 1
    leaf = scores.float().requires_grad_()
    want = wassrank.combined_loss(
        leaf, grades, mask=real, weight=weight, target=last(forward, "target") if huge.given else "softmax",
        positives=torch.full((Q - first,), positive) if huge.affine else None, info_nce=info_nce, kl=kl,
        temperature=temperature, num_levels=levels, reduction="none", backend="torch",
    )  # fmt: skip
    assert (want > 1e-3).all()
    torch.testing.assert_close(last(forward, "row_loss"), want.detach(), rtol=1e-6, atol=1e-7)
    (gradient,) = torch.autograd.grad(want.sum(), leaf)
    got = last(backward, "grad_scores")
    torch.testing.assert_close(got.float(), gradient, rtol=2**-7, atol=1e-9)  # the interpreter truncates to bfloat16
    assert holes.committed() < 2**24


class Holes:
    """Tensors over sparse files: of what nobody writes to there is nothing, and it reads as zeros."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[int, tuple[Tensor, Tensor]] = {}  # the given one is kept: its id must not be another's

    def under(self, launch: Any) -> Any:
        """The launch on such tensors instead of its own, the same for the same."""
        arguments = {name: self.tensor(v) if isinstance(v, Tensor) else v for name, v in launch.arguments.items()}
        return dataclasses.replace(launch, arguments=arguments)

    def tensor(self, like: Tensor) -> Tensor:
        if id(like) not in self.tensors:
            path = self.folder / str(len(self.tensors))
            size = max(1, like.numel() * like.element_size())
            over = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
            self.tensors[id(like)] = like, over.view(like.dtype).view(like.shape)
        return self.tensors[id(like)][1]

    def committed(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in self.folder.iterdir())


def run_last(launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the launch's programs those with the last number in the grid's first dimension."""
    from triton.runtime.interpreter import interpreter_builder

    programs, *others = launch.grid
    set_grid_idx = interpreter_builder.set_grid_idx
    with monkeypatch.context() as patch:
        patch.setattr(interpreter_builder, "set_grid_dim", lambda *_: None)
        patch.setattr(interpreter_builder, "grid_dim", (programs, *others, 1, 1)[:3], raising=False)
        patch.setattr(interpreter_builder, "set_grid_idx", lambda x, y, z: set_grid_idx(x + programs - 1, y, z))
        dataclasses.replace(launch, grid=(1, *others)).run()
