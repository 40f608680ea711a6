"""The row losses from embeddings in Triton: against plain torch's, and what only kernels can get wrong. In the
interpreter where there is no GPU, as test_triton.py."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_triton
import torch
from test_triton import INTERPRETED, Guards, Holes, once_outside, run_in_the_interpreter, run_last
from torch import Tensor

import wassrank
from wassrank.codes import EXCLUDED, Reduction, Target
from wassrank.embeddings import tiles
from wassrank.embeddings.arguments import TENSORS, Arguments
from wassrank.embeddings.plain_tiles import PlainTiles
from wassrank.ops import inputs
from wassrank.processes.passages import Block, Here

pytestmark = test_triton.pytestmark
device = test_triton.device

DOUBLE = torch.float64
ALL: dict[str, Any] = {"info_nce": 0.5, "kl": 0.25}
Q, K, D = 7, 5, 20
N = Q * K


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def some(*shape: int, seed: int = 2) -> Tensor:
    """True for most; each row has one."""
    flags = drawn(*shape, seed=seed) > 0.3
    flags[..., 0] = True
    return flags


PAIRS = torch.tensor([[0, 3], [5, 7], [5, 8], [5, 8], [2, 34], [2, 0], [3, 17], [-1, 4], [4, -1], [6, 30]])
# Labels [Q, K], or of the whole row, and what goes with them.
FORMS: dict[str, dict[str, Any]] = {
    "own": {},
    "own, others of grade 2": {"in_batch": 2},
    "own, excluded": {"in_batch": None},
    "own, masked": {"mask": some(Q, K)},
    "own, row mask": {"mask": some(Q, N)},
    "own, weight": {"weight": drawn(Q)},
    "own, linear": {"target": "linear"},
    "own, given": {"target": drawn(Q, K)},
    "own, given to all": {"target": drawn(Q, N)},
    "own, given, excluded": {"target": drawn(Q, K), "in_batch": None},
    "own, flags": {"exclude": ~some(Q, N)},
    "own, pairs": {"exclude": PAIRS},
    "own, pairs, excluded": {"exclude": PAIRS, "in_batch": None, "mask": some(Q, K)},
    "own, positives": {"positives": torch.tensor([0, 4, 2, -1, 1, 5, 3]), "mask": some(Q, K)},
    "own, label temperatures": {"label_temperature": 0.5 + drawn(Q)},
    "own, cosine": {"similarity": "cosine", "temperature": 0.2},
    "own, cosine, learned": {"similarity": "cosine", "temperature": torch.tensor(0.3, dtype=DOUBLE)},
    "own, learned": {"temperature": torch.tensor(4.0, dtype=DOUBLE), "reduction": "none"},
    "own, p=2, position": {"p": 2.0, "position": [0.0, 0.5, 2.0, 2.5]},
    "dense": {},
    "dense, masked, exp2": {"mask": some(Q, N), "target": "exp2"},
    "dense, given, row mask": {"target": drawn(Q, N), "mask": some(Q, N)},
    "dense, pairs": {"exclude": PAIRS, "reduction": "sum"},
    "dense, flags, positives": {"exclude": ~some(Q, N), "positives": torch.tensor([0, 34, 2, -1, 9, 35, 3])},
    "dense, 32 levels": {"num_levels": 32, "p": 1.5},
}
every_form = pytest.mark.parametrize("name", FORMS)


Problem = tuple[Tensor, Tensor, Tensor, dict[str, Any]]


def problem(name: str, dtype: torch.dtype = DOUBLE, d: int = D) -> Problem:
    """Queries, passages, labels and options; the first passage is a zero vector."""
    generator = torch.Generator().manual_seed(3)
    options = dict(FORMS[name])
    labels = torch.randint(0, 4, (Q, N if name.startswith("dense") else K), generator=generator)
    if "32" in name:
        labels = labels * 9
    queries = torch.randn(Q, d, generator=generator, dtype=DOUBLE)
    passages = torch.randn(N, d, generator=generator, dtype=DOUBLE)
    passages[0] = 0
    options.setdefault("temperature", 2.0)
    options.setdefault("num_levels", 4)
    return queries.to(dtype), passages.to(dtype), labels, options


def moved(problem: Problem, device: str) -> Problem:
    """Queries that ask for a gradient, as passages do."""
    queries, passages, labels, options = problem
    there = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
    return (
        queries.detach().to(device).requires_grad_(),
        passages.detach().to(device).requires_grad_(),
        labels.to(device),
        there,
    )


def step(problem: Problem, loss: str, device: str = "cpu", **others: Any) -> list[Tensor]:
    """The loss and its gradients with respect to queries, passages and a learned temperature, on the CPU."""
    queries, passages, labels, options = moved(problem, device)
    given = options | others
    if loss not in {"combined_loss", "grade_wasserstein"}:
        given.pop("p", None), given.pop("position", None)
    if loss == "info_nce":
        given.pop("target", None), given.pop("label_temperature", None)
    elif loss != "combined_loss":
        given.pop("positives", None)
    leaves = [queries, passages]
    if isinstance(given["temperature"], Tensor):
        given["temperature"] = given["temperature"].clone().requires_grad_()
        leaves.append(given["temperature"])
    value = getattr(wassrank, f"{loss}_from_embeddings")(queries, passages, labels, **given)
    gradients = torch.autograd.grad((value * (1 + torch.arange(value.numel(), device=device))).sum(), leaves)
    return [t.detach().cpu() for t in (value, *gradients)]


def errors(got: list[Tensor], want: list[Tensor]) -> list[float]:
    return [float((g.double() - w.double()).norm() / w.double().norm()) for g, w in zip(got, want, strict=True)]


@once_outside
def test_everything_here_in_the_interpreter() -> None:
    run_in_the_interpreter(__file__)


@every_form
def test_all_losses_are_those_of_plain_torch(name: str, device: str) -> None:
    want = step(problem(name), "combined_loss", backend="torch", **ALL)
    assert max(errors(step(problem(name), "combined_loss", device, backend="triton", **ALL), want)) <= 1e-10
    if not INTERPRETED or name in {"own", "own, cosine, learned", "own, pairs", "dense, given, row mask"}:
        got = step(problem(name, torch.float32), "combined_loss", device, backend="triton", **ALL)
        assert max(errors(got, want)) <= 1e-5


@pytest.mark.parametrize("loss", ["grade_wasserstein", "info_nce", "listwise_kl"])
@pytest.mark.parametrize(
    "name", ["own", "own, excluded", "own, given", "own, given to all", "own, positives", "dense, given, row mask"]
)
def test_each_loss_is_that_of_plain_torch(name: str, loss: str, device: str) -> None:
    want = step(problem(name), loss, backend="torch")
    assert max(errors(step(problem(name), loss, device, backend="triton"), want)) <= 1e-10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["own", "own, cosine, learned", "dense, given, row mask"])
def test_half_types_are_no_worse_than_twice_torchs_own(name: str, dtype: torch.dtype, device: str) -> None:
    """Torch's own: scores in the same type, and the loss of them."""
    queries, passages, labels, options = problem(name, dtype, d=64)
    want = step((queries.double(), passages.double(), labels, options), "combined_loss", backend="torch", **ALL)
    got = step((queries, passages, labels, options), "combined_loss", device, backend="triton", **ALL)

    leaves = [queries.clone().requires_grad_(), passages.clone().requires_grad_()]
    q, p = leaves
    if options.pop("similarity", "dot") == "cosine":
        q, p = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-4) for x in (q, p))
    scores = q @ p.T
    if isinstance(options["temperature"], Tensor):
        leaves.append(options["temperature"].to(dtype).requires_grad_())
        scores, options["temperature"] = scores / leaves[-1], 1.0
    loss = wassrank.combined_loss(scores, labels, backend="torch", **options, **ALL)
    own = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    ulp = torch.finfo(dtype).eps if INTERPRETED and dtype == torch.bfloat16 else 1e-6  # which truncates
    for ours, theirs in zip(errors(got, want), errors(own, want), strict=True):
        assert ours <= 2 * theirs + ulp


def small_tiles(monkeypatch: pytest.MonkeyPatch, programs: int, depth: int = 16) -> Any:
    module = importlib.import_module("wassrank.triton.from_embeddings")
    tile = module.ScoreTile(16, 16, depth, 4, 2)
    for table in ("OTHERS_TILES", "OWN_TILES", "GRADIENT_TILES"):
        monkeypatch.setattr(module, table, dict.fromkeys(getattr(module, table), (tile,) * 3))
    monkeypatch.setattr(module, "PROGRAMS", programs)
    return module


WRITES = {
    "embeddings_own_kernel": {"sums"},
    "embeddings_others_kernel": {"sums"},
    "embeddings_finish_kernel": {"row_loss", "row_weight", "state"},
    "embeddings_gradient_kernel": {"gradient"},
}


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run on copies of their tensors between stretches of poison, and write over poison."""
    module = importlib.import_module("wassrank.triton.from_embeddings")

    def run(launches: list[Any], _: torch.device) -> None:
        for launch in launches:
            guards = Guards()
            written = WRITES[launch.kernel.fn.__name__]
            arguments = guards.around(launch.arguments, written - {"sums"})  # which are read, too
            dataclasses.replace(launch, arguments=arguments).run()
            guards.check()
            for name in written:
                launch.arguments[name].copy_(arguments[name])

    monkeypatch.setattr(module, "run", run)


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("name", FORMS if not INTERPRETED else list(FORMS)[::3])
def test_touches_nothing_outside_its_tensors_and_leaves_nothing_unwritten(name: str, device: str) -> None:
    want = step(problem(name), "combined_loss", backend="torch", **ALL)
    assert max(errors(step(problem(name), "combined_loss", device, backend="triton", **ALL), want)) <= 1e-10


class Blocks:
    """Passages that come in pieces, as a ring's."""

    def __init__(self, passages: Tensor, cuts: list[int]) -> None:
        ends = [0, *cuts, len(passages)]
        self._blocks = [Block(i, passages[i:j].clone()) for i, j in itertools.pairwise(ends)]
        self._blocks.append(self._blocks.pop(0))  # a process begins with its own
        self.total = len(passages)
        self._gradients: list[Block] = []

    def tour(self) -> Iterator[Block]:
        yield from self._blocks

    def tour_back(self, dtype: torch.dtype) -> Iterator[Block]:
        for block in self._blocks:
            gradient = torch.zeros_like(block.passages, dtype=dtype)
            self._gradients.append(block._replace(gradient=gradient, complete=False))
            yield self._gradients[-1]

    def gradient(self) -> Tensor:
        found = sorted(self._gradients, key=lambda block: block.begin)
        return torch.cat([block.gradient for block in found if block.gradient is not None])


def arguments(name: str, device: str, **others: Any) -> Arguments:
    """As `wassrank.ops.level_losses_from_embeddings.fused` has them."""
    queries, passages, labels, options = problem(name)
    given, kind = inputs.given_target(options.get("target", "softmax"), DOUBLE)
    temperatures, label_temperature = inputs.temperatures(options.get("label_temperature", 1.0), DOUBLE)
    temperature, mask, in_batch = options["temperature"], options.get("mask"), options.get("in_batch", 0)
    learned = temperature if isinstance(temperature, Tensor) else None
    a = Arguments(
        queries,
        passages,
        learned,
        labels,
        given,
        mask.reshape(-1) if mask is not None and mask.shape != (Q, N) else mask,
        options.get("weight"),
        temperatures,
        options.get("positives"),
        options.get("exclude"),
        cosine=options.get("similarity") == "cosine",
        wasserstein=1.0,
        info_nce=0.5,
        kl=0.25,
        target_kind=kind,
        reduction=int(Reduction.none),
        in_batch=EXCLUDED if in_batch is None else in_batch,
        num_levels=options["num_levels"],
        p=options.get("p", 1.0),
        temperature=1.0 if learned is not None else temperature,
        label_temperature=label_temperature,
    )._replace(**others)
    there: dict[str, Any] = {k: t.to(device) for k, t in a._asdict().items() if isinstance(t, Tensor)}
    return a._replace(**there)


def of_rows(a: Arguments, first: int, last: int) -> Arguments:
    """What a process has whose rows are first … last − 1."""
    rows = slice(first, last)
    by_row = ("queries", "labels", "target", "weight", "label_temperatures", "positives")
    taken: dict[str, Any] = {x: getattr(a, x)[rows] for x in by_row if getattr(a, x) is not None}
    if a.mask is not None and a.mask.dim() == 2:
        taken["mask"] = a.mask[rows]
    if a.exclude is not None and a.exclude.dtype == torch.bool:
        taken["exclude"] = a.exclude[rows]
    elif a.exclude is not None:
        taken["exclude"] = a.exclude - torch.tensor([first, 0], device=a.exclude.device)
    return a._replace(**taken)


@pytest.mark.parametrize(
    ("programs", "cuts"),
    [(100, []), (1, [11]), (100, [15, 16])],
    ids=["one block", "two blocks, one part", "three blocks"],
)
@pytest.mark.parametrize(
    "name",
    [
        "own, row mask", "own, pairs", "own, given to all", "own, pairs, excluded", "own, cosine, learned",
        "dense, flags, positives",
    ],
)  # fmt: skip
def test_blocks_and_tiles_of_any_number_give_the_same(
    name: str, programs: int, cuts: list[int], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of some rows of a larger batch, in tiles that divide nothing."""
    module = small_tiles(monkeypatch, programs)
    a = of_rows(arguments(name, device, tile_rows=3, tile_columns=17), 2, 6)
    upstream = drawn(4).to(device)

    def plain() -> Any:
        return PlainTiles(a, N, 2)

    want = tiles.statistics(plain(), a, Here(a.passages), 2)
    got = module.statistics(a, Blocks(a.passages, cuts), 2)
    for ours, theirs in zip(got[:2], want[:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    expected = tiles.gradients(plain(), a, Here(a.passages), 2, want[2], upstream)
    for ours, theirs in zip(module.gradients(a, Blocks(a.passages, cuts), 2, got[2], upstream), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_many_tiles_of_rows_and_of_columns(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch, 12)
    generator = torch.Generator().manual_seed(0)
    queries, passages = (torch.randn(rows, 33, generator=generator, dtype=DOUBLE) for rows in (37, 111))
    labels = torch.randint(0, 5, (37, 3), generator=generator)
    pairs = torch.stack([torch.randint(0, n, (60,), generator=generator) for n in (37, 111)], 1)
    for in_batch in (1, None) if not INTERPRETED else (1,):
        one = queries, passages, labels, {"temperature": 3.0, "exclude": pairs, "in_batch": in_batch}
        want = step(one, "combined_loss", backend="torch", **ALL)
        assert max(errors(step(one, "combined_loss", device, backend="triton", **ALL), want)) <= 1e-10


@pytest.mark.parametrize(
    "dtype",
    [torch.int32, torch.int16, torch.int8, torch.uint8][:: 3 if INTERPRETED else 1],
    ids=lambda d: str(d).removeprefix("torch."),
)
def test_labels_of_every_type(dtype: torch.dtype, device: str) -> None:
    queries, passages, labels, options = problem("own")
    got, want = (
        step((queries, passages, labels.to(of), options), "combined_loss", device, backend="triton", **ALL)
        for of in (dtype, torch.int64)
    )
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("stray", [2**32, -1, 4])
@pytest.mark.parametrize("name", ["own, masked", "own, excluded", "dense, masked, exp2"])
def test_a_stray_label_makes_its_row_nan_and_no_other(name: str, stray: int, device: str) -> None:
    """And not where the passage is masked."""
    queries, passages, labels, options = problem(name)
    labels[3, 4] = labels[6, 2] = stray
    if "mask" in options:
        mask = options["mask"] = options["mask"].clone()
        mask[3, 4], mask[6, 2] = True, False
    else:
        labels[6, 2] = 0
    losses, of_queries, of_passages = step(
        (queries, passages, labels, options), "combined_loss", device, backend="triton", reduction="none", **ALL
    )
    assert losses.isnan().nonzero().flatten().tolist() == [3]
    assert of_queries.isnan().any(1).nonzero().flatten().tolist() == [3]
    assert of_passages.isnan().any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_query_that_is_no_number_has_no_loss(value: float, device: str) -> None:
    queries, passages, labels, options = problem("own")
    queries[2, 3] = value
    losses, of_queries, _ = step(
        (queries, passages, labels, options), "combined_loss", device, backend="triton", reduction="none", **ALL
    )
    assert losses.isnan().nonzero().flatten().tolist() == [2]
    assert of_queries.isnan().any(1).nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize("name", ["own", "dense"])
def test_rows_with_nothing_and_batches_with_nothing_are_0(name: str, device: str) -> None:
    queries, passages, labels, options = problem(name)
    flags = torch.zeros(Q, N, dtype=torch.bool)
    flags[[1, 4]] = True
    losses, of_queries, _ = step(
        (queries, passages, labels, options | {"exclude": flags}), "combined_loss", device, backend="triton",
        reduction="none", **ALL,
    )  # fmt: skip
    assert (losses == 0).nonzero().flatten().tolist() == [1, 4]
    assert (of_queries == 0).all(1).nonzero().flatten().tolist() == [1, 4]
    nobody = queries[:0], passages[:0], labels[:0, :K], options
    loss, of_queries, of_passages = step(nobody, "combined_loss", device, backend="triton", **ALL)
    assert loss == 0
    assert of_queries.shape == of_passages.shape == (0, D)


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_finite_at_every_temperature(temperature: float, dtype: torch.dtype, device: str) -> None:
    queries, passages, labels, options = problem("own", dtype)
    one = 30 * queries, 30 * passages, labels, options | {"temperature": temperature}
    assert all(t.isfinite().all() for t in step(one, "combined_loss", device, backend="triton", **ALL))


@pytest.mark.parametrize("name", ["own, pairs", "dense, given, row mask"])
def test_same_bits_each_run_and_second_backward_equals_first(name: str, device: str) -> None:
    queries, passages, labels, options = moved(problem(name, torch.float32), device)
    runs = []
    for _ in range(2):
        loss = wassrank.combined_loss_from_embeddings(queries, passages, labels, backend="triton", **options, **ALL)
        runs += [torch.autograd.grad(loss, [queries, passages], retain_graph=True) for _ in range(2)]
    assert all(torch.equal(x, y) for run in runs[1:] for x, y in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("name", ["own, learned", "dense, flags, positives"])
def test_opcheck(name: str, device: str) -> None:
    a = arguments(name, device, reduction=int(Reduction.mean))
    operator = torch.ops.wassrank.level_losses_from_embeddings_triton.default
    leaves = {x: getattr(a, x).clone().requires_grad_() for x in ("queries", "passages")}
    torch.library.opcheck(operator, tuple(a._replace(**leaves)))
    loss, state, scale = operator(*a)
    backward = (torch.ones_like(loss), *a[:TENSORS], state, scale, *a[TENSORS:])
    torch.library.opcheck(torch.ops.wassrank.level_losses_from_embeddings_backward_triton.default, backward)


def test_compiles_without_a_graph_break_and_gives_the_same(device: str) -> None:
    queries, passages, labels, _ = moved(problem("own"), device)

    def loss(q: Tensor) -> Tensor:
        return wassrank.combined_loss_from_embeddings(2 * q, passages, labels, backend="triton", **ALL).exp()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (want,) = torch.autograd.grad(loss(queries), queries)
    (got,) = torch.autograd.grad(compiled(queries), queries)
    assert torch.equal(got, want)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FORMS)
def test_asks_the_gpu_nothing(name: str) -> None:
    """The first call compiles, and copies what `position` and a list of pairs say."""
    queries, passages, labels, options = moved(problem(name), "cuda")
    modes = torch.cuda.get_sync_debug_mode()
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            loss = wassrank.combined_loss_from_embeddings(queries, passages, labels, backend="triton", **options, **ALL)
            loss.sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode(modes)


def test_refuses_more_passages_than_columns_are_counted() -> None:
    module = importlib.import_module("wassrank.triton.from_embeddings")
    with pytest.raises(ValueError, match="32 bits"):
        module.EmbeddingsLaunches(arguments("own", "cpu"), 2**31, 0)


@pytest.mark.skipif(not INTERPRETED, reason="it takes a file of holes")
@pytest.mark.parametrize("flags", ["mask", "exclude", "pairs"])
def test_offsets_past_two_to_the_31st_element(flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last row and the last passages, over files that are holes but for what these look at."""
    module = small_tiles(monkeypatch, 1, depth=4096)
    queries, d = 33_000, 70_000
    total, last = 2 * queries, slice(queries - 1, queries)
    empty = functools.partial(torch.empty, device="meta", dtype=torch.float32)
    whole = empty((queries, total), dtype=torch.bool)
    excluded = {"mask": None, "exclude": whole, "pairs": empty((4, 2), dtype=torch.int64)}[flags]
    a = Arguments(
        queries=empty((queries, d), dtype=torch.float16),
        passages=empty((total, d), dtype=torch.float16),
        learned=None,
        labels=empty((queries, 2), dtype=torch.int8),
        target=empty((queries, total)),
        mask=whole if flags == "mask" else None,
        exclude=excluded,
        kl=0.5,
        info_nce=0.25,
        target_kind=int(Target.given),
        num_levels=4,
        temperature=3.0,
    )
    calls = module.EmbeddingsLaunches(a, total, 0)
    begin = total - 20
    block = Block(begin, empty((20, d), dtype=torch.float16))
    sums = calls.nothing_yet()
    own, others = calls.plan_statistics(block, sums)
    (losses, weights, state), finish = calls.plan_finish(sums)
    G, upstream = empty((1, 20)), empty(queries)
    everything = Block(0, a.passages)
    gradient = calls.plan_gradient(
        G, tiles.Tile(queries - 1, begin, everything, begin, a.queries[last], a.passages), state, upstream
    )
    gradient.arguments["row_end"] = queries
    holes = Holes(tmp_path)
    own, others, finish, gradient = (holes.under(launch) for launch in (own, others, finish, gradient))

    generator = torch.Generator().manual_seed(0)
    at = gradient.arguments
    at["queries"][last] = torch.randn((1, d), generator=generator) / 40
    at["passages"][begin:] = torch.randn((20, d), generator=generator) / 40
    own.arguments["passages"].copy_(at["passages"][begin:])
    at["labels"][last] = torch.tensor([[1, 3]], dtype=torch.int8)
    at["target"][last, begin:] = torch.rand((1, 20), generator=generator)
    at["upstream"][last] = 2.0
    real = torch.ones(1, 20, dtype=torch.bool)
    real[0, [2, 7, 11]] = False
    if flags == "pairs":
        places = (queries - 1) * total + begin + torch.tensor([2, 7, 7, 11])
        at["pairs"].copy_(places)
    else:
        at[flags][last, begin:] = real if flags == "mask" else ~real
    own.arguments["sums"][:, :2, -1] = others.arguments["sums"][:, 0, -1] = -torch.inf
    for launch in (own, others, finish):
        run_last(launch, monkeypatch)
    # A program a tile, rows within columns: the one there is.
    gradient.run()

    leaf = (at["queries"][last].double() @ at["passages"][begin:].double().T).requires_grad_()
    want = wassrank.combined_loss(
        leaf, torch.cat([torch.zeros(1, 18), torch.tensor([[1.0, 3.0]])], 1).long(), mask=real,
        positives=None, target=at["target"][last, begin:].double(), kl=0.5, info_nce=0.25,
        temperature=3.0, num_levels=4, reduction="none", backend="torch",
    )  # fmt: skip
    torch.testing.assert_close(finish.arguments["row_loss"][last], want.detach(), rtol=1e-5, atol=1e-6)
    (of_scores,) = torch.autograd.grad(2 * want.sum(), leaf)
    torch.testing.assert_close(at["gradient"].double(), of_scores, rtol=1e-4, atol=1e-7)
    assert holes.committed() < 2**24
