"""Does it work in my trainer? `check_adapter` feeds a loss, as your code calls it, known cases and says what is wrong.

    check_adapter(lambda scores, labels: my_loss(scores, labels), convention="column-major",
                  expected=wassrank.GradeWassersteinLoss(temperature=0.05))

It compares loss and gradients with what they should be. Where they differ it tries the mistakes that are made in
practice, one and a few together, and names those that give what your loss gave.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from wassrank.modules import _Loss

CONVENTIONS = {
    "own": "loss(scores [Q, K], labels [Q, K]): each query with its own passages",
    "query-major": "loss(scores [Q, Q*K], labels [Q, K]): column i*K + j is passage j of query i",
    "column-major": "loss(scores [Q, K*Q], labels [Q, K]): column j*Q + i is passage j of query i",
    "embeddings": "loss(queries [Q, d], passages [Q*K, d], labels [Q, K]): passages query-major",
    "columns": "loss([queries, first passages, second passages, ...], labels [Q, K]): each [Q, d]",
}
SHAPES = ((4, 3), (3, 5), (3, 3), (5, 2))
"""Queries and passages a query of the cases; where both are as many, a mistaken order fits the shapes."""

WIDTH = 6  # of embeddings
TOGETHER = 3
"""Mistakes tried at once."""

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

    queries: int
    scores: Callable[[str], Tensor]  # of a similarity; [Q, Q·K] query-major, or [Q, K]
    labels: Tensor
    mask: Tensor | None
    similarity: str
    options: dict[str, Any]
    order: Tensor | None = None  # of columns

    def loss(self, core: type[_Loss]) -> Tensor:
        scores = self.scores(self.similarity)
        scores = scores if self.order is None else scores[:, self.order]
        loss: Tensor = core(**self.options)(scores, self.labels, mask=self.mask)
        return loss


@dataclass(frozen=True)
class _Mistake:
    says: str
    make: Callable[[_Reading], _Reading]


def check_adapter(
    loss: Callable[..., Tensor],
    *,
    convention: str,
    expected: _Loss,
    padding: str | int | None = None,
    similarity: str = "dot",
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

    Raises:
        AdapterError: (an AssertionError) something is wrong; `findings` says what.
        ValueError: an unknown convention or similarity.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {tuple(CONVENTIONS)}, got {convention!r}")
    if similarity not in ("dot", "cosine"):
        raise ValueError(f"similarity must be 'dot' or 'cosine', got {similarity!r}")
    cases = [
        _Case(Q, K, seed, convention, padding if padded else None, similarity, expected)
        for padded in ([False] if padding is None else [False, True])
        for seed, (Q, K) in enumerate(SHAPES)
    ]
    given: list[tuple[Tensor, Tensor]] = []
    for case in cases:
        try:
            given.append(case.step(case.call(loss)))
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
    ) -> None:
        self.Q, self.K, self.convention, self.padding = Q, K, convention, padding
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 4, (Q, K), generator=generator)
        self.labels[:, 0] = torch.randint(1, 4, (Q,), generator=generator)  # no query without a relevant passage
        self.mask = None
        if padding is not None:
            self.mask = torch.rand(Q, K, generator=generator) < 0.7
            self.mask[:, 0] = True
            self.mask[0, 1] = False
            self.labels[~self.mask] = 0
        self.of_embeddings = convention in ("embeddings", "columns")
        sizes = [(Q, WIDTH), (Q * K, WIDTH)] if self.of_embeddings else [(Q, K if convention == "own" else Q * K)]
        self.leaves = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in sizes]
        self.by_columns = torch.arange(Q * K).view(Q, K).T.reshape(-1)  # where column j·Q + i is among query-major ones
        self.right = _Reading(Q, self._scores, self.labels, self.mask, similarity, expected.options)

    def _scores(self, similarity: str) -> Tensor:
        if not self.of_embeddings:
            return self.leaves[0]
        queries, passages = (normalize(x, dim=-1) if similarity == "cosine" else x for x in self.leaves)
        return queries @ passages.T

    def call(self, loss: Callable[..., Tensor]) -> Tensor:
        labels, options = self.labels.clone(), {}
        if self.mask is not None and self.padding == "mask":
            options["mask"] = self.mask.clone()
        elif self.mask is not None:
            labels[~self.mask] = int(self.padding or 0)
        if self.convention == "columns":
            queries, passages = self.leaves
            return loss([queries, *passages.view(self.Q, self.K, -1).unbind(1)], labels, **options)
        if self.convention == "column-major":
            return loss(self.leaves[0][:, self.by_columns], labels, **options)
        return loss(*(leaf.clone() for leaf in self.leaves), labels, **options)

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


def _mistakes(case: _Case) -> list[_Mistake]:
    """Those that could be seen in the cases, the commonest first."""
    o = case.right.options
    mistakes = []
    if case.convention != "own":
        have, read = ("column by column", "query by query")
        columns = case.convention in ("column-major", "columns")
        if not columns:
            have, read = read, have
        mistakes.append(
            _Mistake(
                f"transposed: this convention has passages {have}, they are read {read}",
                lambda r: replace(r, order=_misread(r.queries, r.labels.shape[1], columns)),
            )
        )
    mistakes.append(
        _Mistake(
            "transposed labels: they are read column by column, [K, Q] in the place of [Q, K]",
            lambda r: replace(r, labels=r.labels.T.reshape(r.labels.shape)),
        )
    )
    t = o["temperature"]
    for says, temperature in (
        (f"unscaled: scores are not divided by the temperature, {t:g}", 1.0),
        (f"scaled twice: scores are divided by the temperature, {t:g}, and by it again", t * t),
        (f"scaled the wrong way: scores are multiplied by the temperature, {t:g}, not divided", 1 / t),
    ):
        mistakes.append(_option(says, temperature=temperature))
    mistakes += [
        _Mistake("unmasked: padded passages take part", lambda r: replace(r, mask=None)),
        _Mistake(
            "the mask is read the other way round: True is a real passage",
            lambda r: replace(r, mask=None if r.mask is None else ~r.mask),
        ),
    ]
    if case.convention != "own":
        if o["in_batch"] is None:
            mistakes.append(_option("other queries' passages take part, in_batch=None leaves them out", in_batch=0))
        else:
            mistakes.append(_option("other queries' passages are left out, they count as in_batch", in_batch=None))
    if "label_temperature" in o:
        mistakes.append(_option("labels are not divided by label_temperature", label_temperature=1.0))
        mistakes.append(_option(f"the target is softmax, not {o['target']!r}", target="softmax"))
        mistakes.append(_option(f"the target is linear, not {o['target']!r}", target="linear"))
    if "reduction" in o:
        wrong = "sum" if o["reduction"] == "mean" else "mean"
        mistakes.append(_option(f"rows' losses are reduced by {wrong}, not {o['reduction']}", reduction=wrong))
    if case.of_embeddings:
        for says, similarity in (
            ("embeddings are not normalised", "dot"),
            ("embeddings are normalised", "cosine"),
        ):
            if similarity != case.right.similarity:
                mistakes.append(_Mistake(says, lambda r, s=similarity: replace(r, similarity=s)))  # type: ignore[misc]
    return mistakes


def _option(says: str, **wrong: Any) -> _Mistake:
    return _Mistake(says, lambda r: replace(r, options=r.options | wrong))


def _misread(Q: int, K: int, by_columns: bool) -> Tensor:
    """Which of the true query-major columns is taken for each."""
    order = torch.arange(Q * K)
    return order.view(Q, K).T.reshape(-1) if by_columns else order.view(K, Q).T.reshape(-1)


def _differences(
    cases: Sequence[_Case],
    given: Sequence[tuple[Tensor, Tensor]],
    core: type[_Loss],
    mistakes: Sequence[_Mistake],
) -> list[str]:
    """The fewest mistakes that give what was given; none where it is right."""
    for some in _subsets(mistakes):
        found = []
        for case in cases:
            reading = case.right
            for mistake in some:
                reading = mistake.make(reading)
            found.append(case.step(reading.loss(core)))
        of_value = _factor([value for value, _ in given], [value for value, _ in found])
        of_gradient = _factor([gradient for _, gradient in given], [gradient for _, gradient in found])
        if of_value is None or of_gradient is None:
            continue
        says = [mistake.says for mistake in some]
        if of_gradient == 0:
            says.append("detached: no gradient reaches the inputs")
        elif of_gradient != of_value:
            says.append(f"gradients are {of_gradient / of_value:.6g} times those of the value")
        if of_value != 1:
            says.append(f"the loss is multiplied by {of_value:.6g}")
        return says
    lines = [
        f"{case.Q} queries, {case.K} passages each{', some padded' if case.mask is not None else ''}: "
        f"got {value.mean():.6g}, expected {case.step(case.right.loss(core))[0].mean():.6g}"
        for case, (value, _) in zip(cases, given, strict=True)
    ]
    return ["no mistake that is known here explains it; " + "; ".join(lines)]


def _subsets(mistakes: Sequence[_Mistake]) -> Iterator[tuple[_Mistake, ...]]:
    for n in range(TOGETHER + 1):
        yield from itertools.combinations(mistakes, n)


def _factor(given: Sequence[Tensor], found: Sequence[Tensor]) -> float | None:
    """The c for which given = c·found throughout, 1.0 exactly where it is 1 but for rounding; None: there is none."""
    if any(one.shape != other.shape for one, other in zip(given, found, strict=True)):
        return None
    a, b = torch.cat(list(given)), torch.cat(list(found))
    c = float(a @ b / (b @ b)) if bool(b.any()) else 0.0
    if not bool((a - c * b).norm() <= RTOL * max(a.norm(), b.norm())):
        return None
    nearest = round(c)
    return float(nearest) if abs(c - nearest) <= RTOL else c
