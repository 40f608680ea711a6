"""Does it work in my trainer? `check_adapter` feeds a loss, as your code calls it, known cases and says what is wrong.

    check_adapter(lambda scores, labels: my_loss(scores, labels), convention="column-major",
                  expected=wassrank.GradeWassersteinLoss(temperature=0.05))

It compares loss and gradients with what they should be. Where they differ it tries the mistakes that are made in
practice, one and a few together, and names those that give what your loss gave. With `shared` it does so in several
processes that share a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from wassrank.modules import _Loss
from wassrank.processes.group import present

CONVENTIONS = {
    "own": "loss(scores [Q, K], labels [Q, K]): each query with its own passages",
    "query-major": "loss(scores [Q, Q*K], labels [Q, K]): column i*K + j is passage j of query i",
    "column-major": "loss(scores [Q, K*Q], labels [Q, K]): column j*Q + i is passage j of query i",
    "embeddings": "loss(queries [Q, d], passages [Q*K, d], labels [Q, K]): passages query-major",
    "columns": "loss([queries, first passages, second passages, ...], labels [Q, K]): each [Q, d]",
}
OF_EMBEDDINGS = ("embeddings", "columns")
SHAPES = ((4, 3), (3, 5), (3, 3), (5, 2))
"""Queries a process and passages a query of the cases; where both are as many, a mistaken order fits the shapes."""

WIDTH = 6  # of embeddings
TOGETHER = 3
"""Mistakes tried at once."""

TEMPERATURES = (0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""That are in use, or whose reciprocals are: tried where another one was meant."""

RTOL = 1e-4
"""Between a float32 adapter's rounding and what any mistake does."""


class AdapterError(AssertionError):
    """`findings`: what is wrong, a sentence each."""

    def __init__(self, findings: Sequence[str]) -> None:
        self.findings = list(findings)
        super().__init__("the loss is not what was expected:\n" + "\n".join(f"- {finding}" for finding in findings))


@dataclass(frozen=True)
class _Reading:
    """A case as somebody, right or mistaken, understands it."""

    scores: Callable[[str, bool], Tensor]  # of a similarity, gathered detached or not; [Q, Q·K] query-major, or [Q, K]
    labels: Tensor  # [Q, K]
    mask: Tensor | None
    similarity: str
    options: dict[str, Any]
    order: Tensor | None = None  # of columns
    detached: bool = False
    parts: int = 1  # that do not see one another's passages

    def loss(self, core: type[_Loss]) -> Tensor:
        scores = self.scores(self.similarity, self.detached)
        scores = scores if self.order is None else scores[:, self.order]
        masks = [None] * self.parts if self.mask is None else self.mask.chunk(self.parts)
        losses = [
            core(**self.options)(own.chunk(self.parts, 1)[i], labels, mask=mask)
            for i, (own, labels, mask) in enumerate(
                zip(scores.chunk(self.parts), self.labels.chunk(self.parts), masks, strict=True)
            )
        ]
        return torch.stack(losses).mean(0)


@dataclass(frozen=True)
class _Mistake:
    about: str  # of those about one thing no two are made together
    says: str
    make: Callable[[_Reading], _Reading]


def check_adapter(
    loss: Callable[..., Tensor],
    *,
    convention: str,
    expected: _Loss,
    padding: str | int | None = None,
    similarity: str = "dot",
    shared: bool = False,
) -> None:
    """Raises AdapterError, with what is wrong in words, unless `loss` is `expected` under its convention.

    Args:
        loss: your adapter, called as `convention` says. Scores, or embeddings, are float64 and ask for a gradient;
            labels are int64, 0 … 3.
        convention: one of CONVENTIONS: how your codebase lays passages out.
        expected: the wassrank loss with the options yours is meant to have, GradeWassersteinLoss(temperature=0.05) for
            instance. What is 1 (a temperature) or the same either way is not seen when ignored: take options that you
            do not take by default.
        padding: how your code says that a passage is padding: "mask" (mask=, bool [Q, K], True = a real passage), the
            label such a passage has (−100), or None: it cannot.
        similarity: "dot" or "cosine": how the scores of embeddings are meant.
        shared: all processes of torch.distributed call this, and a batch is theirs together: each gives your loss its
            own queries and passages. Your loss returns what it calls backward on, gradients are averaged as
            DistributedDataParallel does, and are to be the whole batch's. For "embeddings" and "columns".

    Raises:
        AdapterError: (an AssertionError) something is wrong; `findings` says what.
        ValueError: an unknown convention or similarity; `shared` without processes, or with scores.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {tuple(CONVENTIONS)}, got {convention!r}")
    if similarity not in ("dot", "cosine"):
        raise ValueError(f"similarity must be 'dot' or 'cosine', got {similarity!r}")
    if shared and not (present() and convention in OF_EMBEDDINGS):
        raise ValueError(
            f"shared=True is for torch.distributed's processes, once they have joined, and for embeddings, which they "
            f"gather: convention {OF_EMBEDDINGS}, got {convention!r}"
        )
    processes = dist.get_world_size() if shared else 1
    cases = [
        _Case(Q, K, seed, convention, padding if padded else None, similarity, expected, processes)
        for padded in ([False] if padding is None else [False, True])
        for seed, (Q, K) in enumerate(SHAPES)
    ]
    given: list[tuple[Tensor, Tensor]] = []
    for case in cases:
        try:
            given.append(case.found(loss))
        except Exception as error:  # whatever the user's code raises is the finding
            what = " with padded passages" if case.mask is not None else ""
            finding = f"raised{what} for {case.Q} queries with {case.K} passages each: {type(error).__name__}: {error}"
            if case.mask is not None:
                finding += ": unmasked? padding is not understood"
            raise AdapterError([finding]) from error
    findings = _differences(cases, given, type(expected), _mistakes(cases[0]))
    if findings:
        raise AdapterError(findings)


class _Case:
    def __init__(
        self,
        Q: int,
        K: int,
        seed: int,
        convention: str,
        padding: str | int | None,
        similarity: str,
        expected: _Loss,
        processes: int,
    ) -> None:
        Q *= processes
        self.Q, self.K, self.convention, self.padding, self.processes = Q, K, convention, padding, processes
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 4, (Q, K), generator=generator)
        self.labels[:, 0] = torch.randint(1, 4, (Q,), generator=generator)  # no query without a relevant passage
        self.mask = None
        if padding is not None:
            self.mask = torch.rand(Q, K, generator=generator) < 0.7
            self.mask[:, 0] = True
            self.mask[0, 1] = False
            self.labels[~self.mask] = 0
        self.of_embeddings = convention in OF_EMBEDDINGS
        sizes = [(Q, WIDTH), (Q * K, WIDTH)] if self.of_embeddings else [(Q, K if convention == "own" else Q * K)]
        self.leaves = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in sizes]
        self.by_columns = torch.arange(Q * K).view(Q, K).T.reshape(-1)  # where column j·Q + i is among query-major ones
        alone = {name: value for name, value in expected.options.items() if name not in ("gather", "group")}
        self.right = _Reading(self._scores, self.labels, self.mask, similarity, alone)

    def _scores(self, similarity: str, detached: bool) -> Tensor:
        if not self.of_embeddings:
            return self.leaves[0]
        queries, passages = (normalize(x, dim=-1) if similarity == "cosine" else x for x in self.leaves)
        if not detached:
            return queries @ passages.T
        whose = torch.arange(self.processes).repeat_interleave(len(passages) // self.processes).unsqueeze(1)
        rows = [
            own @ torch.where(whose == i, passages, passages.detach()).T
            for i, own in enumerate(queries.chunk(self.processes))
        ]
        return torch.cat(rows)

    def call(self, loss: Callable[..., Tensor]) -> Tensor:
        rank = dist.get_rank() if self.processes > 1 else 0
        labels, *leaves = (x.chunk(self.processes)[rank].clone() for x in (self.labels, *self.leaves))
        options = {}
        if self.mask is not None:
            mask = self.mask.chunk(self.processes)[rank].clone()
            if self.padding == "mask":
                options["mask"] = mask
            else:
                labels[~mask] = int(self.padding or 0)
        if self.convention == "columns":
            queries, passages = leaves
            return loss([queries, *passages.unflatten(0, (-1, self.K)).unbind(1)], labels, **options)
        if self.convention == "column-major":
            return loss(leaves[0][:, self.by_columns], labels, **options)
        return loss(*leaves, labels, **options)

    def step(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Its value and its gradients, one behind the other; zeros where there are none."""
        if not loss.requires_grad:
            gradients: Iterable[Tensor | None] = [None] * len(self.leaves)
        else:
            gradients = torch.autograd.grad(loss.sum(), self.leaves, allow_unused=True)
        flat = [
            torch.zeros_like(leaf).flatten() if gradient is None else gradient.flatten()
            for leaf, gradient in zip(self.leaves, gradients, strict=True)
        ]
        return loss.detach().double().reshape(-1), torch.cat(flat)

    def found(self, loss: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        """The step that a model makes: of processes that share the case, the mean."""
        value, gradient = (x.clone() for x in self.step(self.call(loss)))
        if self.processes > 1:
            for sum_of_all in (value, gradient):
                dist.all_reduce(sum_of_all)
        return value / self.processes, gradient / self.processes


def _mistakes(case: _Case) -> list[_Mistake]:
    """Those that could be seen in the cases, the commonest first."""
    o = case.right.options
    mistakes = []
    if case.convention != "own":
        have, read = ("column by column", "query by query")
        columns = case.convention in ("column-major", "columns")
        if not columns:
            have, read = read, have
        says = f"transposed: this convention has passages {have}, they are read {read}"
        for parts in {1, case.processes}:  # before passages are gathered, or after
            mistakes.append(
                _Mistake("order", says, lambda r, n=parts: replace(r, order=_misread(r.labels, columns, n)))  # type: ignore[misc]
            )
    mistakes.append(
        _Mistake(
            "labels",
            "transposed labels: they are read column by column, [K, Q] in the place of [Q, K]",
            lambda r: replace(r, labels=r.labels.T.reshape(r.labels.shape)),
        )
    )
    t = o["temperature"]
    named = {
        1.0: f"unscaled: scores are not divided by the temperature, {t:g}",
        t * t: f"scaled twice: scores are divided by the temperature, {t:g}, and by it again",
        1 / t: f"scaled the wrong way: scores are multiplied by the temperature, {t:g}, not divided",
    }
    others = {other: f"another temperature: scores are divided by {other:g}, not by {t:g}" for other in TEMPERATURES}
    mistakes += [_option(says, temperature=other) for other, says in (others | named).items() if other != t]
    mistakes += [
        _Mistake("mask", "unmasked: padded passages take part", lambda r: replace(r, mask=None)),
        _Mistake(
            "mask",
            "the mask is read the other way round: True is a real passage",
            lambda r: replace(r, mask=None if r.mask is None else ~r.mask),
        ),
    ]
    if case.convention != "own":
        if o["in_batch"] is None:
            mistakes.append(_option("other queries' passages take part, in_batch=None leaves them out", in_batch=0))
        else:
            mistakes.append(_option("other queries' passages are left out, they count as in_batch", in_batch=None))
    if case.processes > 1:
        mistakes += [
            _Mistake(
                "gather",
                "not gathered: each process ranks its queries against its own passages alone",
                lambda r: replace(r, parts=case.processes),
            ),
            _Mistake(
                "gather",
                "the gather is detached: no gradient reaches passages by other processes' queries",
                lambda r: replace(r, detached=True),
            ),
        ]
    if "label_temperature" in o:
        mistakes.append(_option("labels are not divided by label_temperature", label_temperature=1.0))
        mistakes += [
            _option(f"the target is {one}, not {o['target']!r}", target=one) for one in ("softmax", "linear", "exp2")
        ]
    if "reduction" in o:
        wrong = "sum" if o["reduction"] == "mean" else "mean"
        mistakes.append(_option(f"rows' losses are reduced by {wrong}, not {o['reduction']}", reduction=wrong))
    if case.of_embeddings:
        meant = case.right.similarity
        taken, says = (
            ("cosine", "embeddings are normalised") if meant == "dot" else ("dot", "embeddings are not normalised")
        )
        mistakes.append(_Mistake("similarity", says, lambda r: replace(r, similarity=taken)))
    return mistakes


def _option(says: str, **wrong: Any) -> _Mistake:
    (about,) = wrong
    return _Mistake(about, says, lambda r: replace(r, options=r.options | wrong))


def _misread(labels: Tensor, by_columns: bool, parts: int) -> Tensor:
    """Which of the true query-major columns is taken for each, where each of so many parts is misread for itself."""
    Q, K = labels.shape
    order, q = torch.arange(Q * K), Q // parts
    order = order.view(parts, q, K) if by_columns else order.view(parts, K, q)
    return order.transpose(1, 2).reshape(-1)


def _differences(
    cases: Sequence[_Case],
    given: Sequence[tuple[Tensor, Tensor]],
    core: type[_Loss],
    mistakes: Sequence[_Mistake],
) -> list[str]:
    """The fewest mistakes that give what was given; none where it is right."""
    for some in _subsets(mistakes):
        found: list[tuple[Tensor, Tensor]] = []
        for case in cases:
            reading = case.right
            for mistake in some:
                reading = mistake.make(reading)
            found.append(case.step(reading.loss(core)))
            # Most are out after the first case.
            of_gradient = _factor([gradient for _, gradient in given], [gradient for _, gradient in found])
            if of_gradient is None:
                break
        else:
            of_value = _factor([value for value, _ in given], [value for value, _ in found])
            if of_value is not None and of_gradient is not None:
                return [mistake.says for mistake in some] + _multiples(of_value, of_gradient, cases[0].processes)
    lines = [
        f"{case.Q} queries, {case.K} passages each{', some padded' if case.mask is not None else ''}: "
        f"got {value.mean():.6g}, expected {case.step(case.right.loss(core))[0].mean():.6g}"
        for case, (value, _) in zip(cases, given, strict=True)
    ]
    return ["no mistake that is known here explains it; " + "; ".join(lines)]


def _multiples(of_value: float, of_gradient: float, processes: int) -> list[str]:
    """What is wrong with a loss and gradients that are so many times those expected."""
    if of_gradient == 0:
        return ["detached: no gradient reaches the inputs"]
    if of_gradient == 1 and of_value in (1, processes):  # what backward is called on may be multiplied by their number
        return []
    if abs(of_gradient * processes - 1) <= RTOL * processes and processes > 1:
        return [
            f"gradients are those of the whole batch divided by {processes}: they are to be summed over processes, and "
            f"DistributedDataParallel takes their mean; multiply the loss by the number of processes"
        ]
    says = []
    if of_gradient != of_value:
        says.append(f"gradients are {of_gradient / of_value:.6g} times those of the value")
    if of_value != 1:
        says.append(f"the loss is multiplied by {of_value:.6g}")
    return says


def _subsets(mistakes: Sequence[_Mistake]) -> Iterator[tuple[_Mistake, ...]]:
    for n in range(TOGETHER + 1):
        for some in itertools.combinations(mistakes, n):
            if len({mistake.about for mistake in some}) == n:
                yield some


def _factor(given: Sequence[Tensor], found: Sequence[Tensor]) -> float | None:
    """The c for which given = c·found throughout, 1.0 exactly where it is 1 but for rounding; None: there is none."""
    given = given[: len(found)]  # cases so far
    if any(one.shape != other.shape for one, other in zip(given, found, strict=True)):
        return None
    a, b = torch.cat(list(given)), torch.cat(list(found))
    c = float(a @ b / (b @ b)) if bool(b.any()) else 0.0
    if not bool((a - c * b).norm() <= RTOL * max(a.norm(), b.norm())):
        return None
    nearest = round(c)
    return float(nearest) if abs(c - nearest) <= RTOL else c
