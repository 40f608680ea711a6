"""The conformance table: small inputs that between them meet every argument, shape and edge of the row losses.

Every backend must give what the float64 reference gives on each of them; see test_conformance.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    name: str
    Q: int = 6
    K: int = 5
    dense: bool = False  # labels [Q, N] instead of [Q, K] with N = Q·K
    label_dtype: torch.dtype = torch.int64
    num_grades: int = 4
    spread: float = 3.0  # standard deviation of the scores
    mask: str | None = None  # "scores": [Q, N]; "labels": the shape of labels
    weight: bool = False
    target: str = "softmax"  # "given" (a tensor [Q, N]), "given_nan", "given_own" (the shape of labels)
    edit: Callable[[Tensor, Tensor], None] | None = None  # edit(scores, labels), in place
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, dict[str, Any]]:
        """(scores, labels, keyword arguments); the same numbers for every dtype, up to its rounding."""
        generator = torch.Generator().manual_seed(sum(map(ord, self.name)))
        K = self.Q * self.K if self.dense else self.K
        scores = self.spread * torch.randn(self.Q, self.Q * self.K, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, self.num_grades, (self.Q, K), generator=generator).to(self.label_dtype)
        if self.edit is not None:
            self.edit(scores, labels)
        options = dict(self.options)
        if self.mask is not None:
            shape = scores.shape if self.mask == "scores" else labels.shape
            options["mask"] = torch.rand(shape, generator=generator) > 0.3
        if self.weight:
            options["weight"] = torch.rand(self.Q, generator=generator, dtype=torch.float64)
        if self.target.startswith("given"):
            shape = labels.shape if self.target == "given_own" else scores.shape
            options["target"] = torch.rand(shape, generator=generator, dtype=torch.float64)
            if self.target == "given_nan":
                options["target"][0, 0] = torch.nan
        else:
            options["target"] = self.target
        # Every dtype is given what the half types can hold, so that all are compared on the same problem.
        scores = scores.to(dtype).to(device)
        options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
        return scores, labels.to(device), options


def _no_relevant_passage(scores: Tensor, labels: Tensor) -> None:
    labels[1] = 0


def _no_gain_and_scores_near_overflow(scores: Tensor, labels: Tensor) -> None:
    """An empty row has no maximum to take off: e^88.9 and e^710 overflow float32 and float64."""
    scores[0], scores[1] = 88.9, 710.0
    labels[:2] = 0


def _no_gain_and_not_a_number(scores: Tensor, labels: Tensor) -> None:
    scores[1, 0] = torch.nan
    labels[1] = 0


def _impossible_passages(scores: Tensor, labels: Tensor) -> None:
    scores[0, 1::3] = -torch.inf
    scores[2] = -torch.inf


def _not_a_number(scores: Tensor, labels: Tensor) -> None:
    scores[1, 3] = torch.nan
    scores[3, 0] = torch.inf


def _one_hot(scores: Tensor, labels: Tensor) -> None:
    scores *= 0
    scores[:, ::4] = 1e4
    scores[:, 1::4] = -1e4


def _same_scores(scores: Tensor, labels: Tensor) -> None:
    scores.fill_(2.5)


def _scores_are_labels(scores: Tensor, labels: Tensor) -> None:
    scores.copy_(labels)


def _stray_labels_on_impossible_passages(scores: Tensor, labels: Tensor) -> None:
    scores[:, 2] = -torch.inf
    labels[:, 2] = 100


CASES = [
    Case("in_batch"),
    Case("in_batch_p2", options={"p": 2.0}),
    Case("in_batch_p1.5", options={"p": 1.5, "temperature": 0.4}),
    Case("in_batch_p3_many_levels", num_grades=30, label_dtype=torch.uint8, options={"p": 3.0, "num_levels": 32}),
    Case("in_batch_grade_2", options={"in_batch": 2}),
    Case("in_batch_excluded", options={"in_batch": None}),
    Case("in_batch_excluded_p2_masked", mask="labels", options={"in_batch": None, "p": 2.0}),
    Case("column_mask", mask="labels", weight=True),
    Case("row_mask", mask="scores", label_dtype=torch.int32),
    Case("linear", target="linear", options={"p": 2.0}),
    Case("exp2", target="exp2", weight=True),
    Case("linear_without_gains", target="linear", edit=_no_relevant_passage, options={"in_batch": 0}),
    Case("no_gain_and_scores_near_overflow", target="linear", edit=_no_gain_and_scores_near_overflow),
    Case("no_gain_and_not_a_number", target="linear", edit=_no_gain_and_not_a_number),
    Case("given_not_a_number", target="given_nan", options={"reduction": "none"}),
    Case("given", target="given", mask="labels"),
    Case("given_own", target="given_own", options={"p": 2.0}),
    Case("label_temperature", options={"label_temperature": 0.3, "temperature": 0.1}),
    Case("dense", dense=True, label_dtype=torch.int16),
    Case("dense_int8_p2", dense=True, label_dtype=torch.int8, options={"p": 2.0}),
    Case("dense_masked_given", dense=True, mask="scores", target="given", weight=True),
    Case("dense_p2.5_linear", dense=True, target="linear", mask="labels", options={"p": 2.5, "temperature": 2.0}),
    Case("dense_many_levels", dense=True, Q=3, K=70, num_grades=20, options={"num_levels": 20, "p": 2.0}),
    Case("dense_six_levels", dense=True, Q=3, K=70, num_grades=6, mask="scores"),
    Case("sum", options={"reduction": "sum"}, weight=True),
    Case("none", options={"reduction": "none"}, weight=True),
    Case("one_query", Q=1, K=7),
    Case("one_passage", Q=4, K=1, dense=False),
    Case("one_by_one", Q=1, K=1),
    Case("one_level", num_grades=1, options={"num_levels": 1}),
    Case("no_query", Q=0, K=3),
    Case("no_passage", Q=3, K=0),
    Case("odd_width", Q=3, K=43, mask="scores"),
    Case("wide", Q=2, K=2700, mask="labels", options={"p": 2.0}),
    Case("wide_dense", Q=2, K=2300, dense=True, label_dtype=torch.uint8, target="exp2"),
    Case("impossible_passages", edit=_impossible_passages),
    Case("impossible_passages_dense", edit=_impossible_passages, dense=True, options={"p": 2.0}),
    Case("impossible_passages_given", edit=_impossible_passages, target="given", options={"reduction": "none"}),
    Case("not_a_number", edit=_not_a_number, mask="scores", options={"reduction": "none"}),
    Case("not_a_number_p2", edit=_not_a_number, dense=True, options={"reduction": "none", "p": 2.0}),
    Case("one_hot", edit=_one_hot, options={"temperature": 1e-3}),
    Case("one_hot_p2", edit=_one_hot, dense=True, options={"p": 2.0}),
    Case("same_scores", edit=_same_scores, dense=True),
    Case("p_equals_t", edit=_scores_are_labels, dense=True),
    Case("p_equals_t_p2", edit=_scores_are_labels, dense=True, options={"p": 2.0, "reduction": "none"}),
    Case("hot", options={"temperature": 1e3, "label_temperature": 1e3}),
    Case("cold", options={"temperature": 1e-3, "label_temperature": 1e-3, "p": 2.0}),
    Case("stray_labels_on_impossible_passages", edit=_stray_labels_on_impossible_passages, dense=True),
]
