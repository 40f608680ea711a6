"""The conformance table: small inputs that between them meet every loss, argument, shape and edge of the row losses.

Every backend must give what the float64 reference gives on each of them; see test_conformance.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    name: str
    loss: str = "grade_wasserstein"  # of wassrank's functions
    Q: int = 6
    K: int = 5
    packed: tuple[int, ...] = ()  # lengths of packed lists; then Q, K and dense mean nothing
    dense: bool = False  # labels [Q, N] instead of [Q, K] with N = Q·K
    label_dtype: torch.dtype = torch.int64  # a floating one: a teacher's scores, of both signs, now and then the same
    num_grades: int = 4
    spread: float = 3.0  # standard deviation of the scores
    mask: str | None = None  # "scores": [Q, N]; "labels": the shape of labels
    weight: bool = False
    position: bool = False  # for float labels: coordinates of passages, rising with the label
    label_temperatures: bool = False  # one a query
    positives: bool = False  # an index of the positive, in some rows none
    target: str = "softmax"  # "given" (a tensor [Q, N]), "given_nan", "given_own" (the shape of labels)
    edit: Callable[[Tensor, Tensor], None] | None = None  # edit(scores, labels), in place
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_sorted(self) -> bool:
        """Whether it takes the order of the passages."""
        wasserstein = {"grade_wasserstein": 1.0, "combined_loss": self.options.get("wasserstein", 1.0)}
        return self.label_dtype.is_floating_point and bool(wasserstein.get(self.loss))

    @property
    def queries(self) -> int:
        return len(self.packed) if self.packed else self.Q

    def make(self, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, dict[str, Any]]:
        """(scores, labels, keyword arguments); the same numbers for every dtype, up to its rounding."""
        generator = torch.Generator().manual_seed(sum(map(ord, self.name)))
        shape, labels_shape = (self.Q, self.Q * self.K), (self.Q, self.Q * self.K if self.dense else self.K)
        if self.packed:
            shape = labels_shape = (sum(self.packed),)  # type: ignore[assignment]
        scores = self.spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        if self.label_dtype.is_floating_point:
            labels = (32 * torch.randn(labels_shape, generator=generator)).round().to(self.label_dtype) / 32
        else:
            labels = torch.randint(0, self.num_grades, labels_shape, generator=generator).to(self.label_dtype)
        if self.edit is not None:
            self.edit(scores, labels)
        options = dict(self.options)
        if self.mask is not None:
            mask_shape = scores.shape if self.mask == "scores" else labels.shape
            options["mask"] = torch.rand(mask_shape, generator=generator) > 0.3
        if self.weight:
            options["weight"] = torch.rand(self.queries, generator=generator, dtype=torch.float64)
        if self.target.startswith("given"):
            target_shape = labels.shape if self.target == "given_own" else scores.shape
            options["target"] = torch.rand(target_shape, generator=generator, dtype=torch.float64)
            if self.target == "given_nan":
                options["target"][0, 0] = torch.nan
        elif self.loss != "info_nce":
            options["target"] = self.target
        if self.position:
            options["position"] = (4 * labels).ceil() / 2
        if self.label_temperatures:
            options["label_temperature"] = 0.3 + torch.rand(self.queries, generator=generator, dtype=torch.float64)
        if self.positives:
            longest = max(self.packed, default=0) if self.packed else labels.shape[1]
            options["positives"] = torch.randint(-1, max(1, longest), (self.queries,), generator=generator)
        if self.packed:
            options["offsets"] = torch.tensor([0, *self.packed]).cumsum(0)
        # Every dtype is given what the half types can hold, so that all are compared on the same problem.
        scores = scores.to(dtype).to(device)
        options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
        return scores, labels.to(device), options

    def rows(self, values: Tensor) -> list[Tensor]:
        """What is as scores are, list by list."""
        return list(values.split(list(self.packed))) if self.packed else list(values)


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


def _no_place_on_impossible_passages(scores: Tensor, labels: Tensor) -> None:
    scores[:, 2] = -torch.inf
    scores[1:, 4] = -torch.inf
    labels[:, 2] = torch.nan
    labels[1::2, 4] = torch.inf
    labels[2::2, 4] = -torch.inf


def _positive_labels(scores: Tensor, labels: Tensor) -> None:
    labels.abs_()


LOSSES = ("grade_wasserstein", "info_nce", "listwise_kl", "combined_loss")
_ALL_TERMS: dict[str, dict[str, Any]] = {"combined_loss": {"wasserstein": 1.0, "info_nce": 0.5, "kl": 0.25}}


def _of_every_loss() -> list[Case]:
    """What each of the losses beside grade_wasserstein, whose cases stand in the table itself, must meet."""
    return [
        replace(case, name=f"{loss}_{case.name}", loss=loss, options=case.options | _ALL_TERMS.get(loss, {}))
        for loss in LOSSES[1:]
        for case in (
            Case("in_batch"),
            Case("excluded", options={"in_batch": None}),
            Case("column_mask", mask="labels", weight=True),
            Case("row_mask", mask="scores", label_dtype=torch.int32, options={"reduction": "sum"}),
            Case("dense", dense=True, label_dtype=torch.int8, mask="scores", options={"reduction": "none"}),
            Case("dense_many_levels", dense=True, Q=3, K=70, num_grades=20, options={"num_levels": 20}),
            Case("one_by_one", Q=1, K=1),
            Case("no_query", Q=0, K=3),
            Case("no_passage", Q=3, K=0),
            Case("wide", Q=2, K=2700, mask="labels"),
            Case("wide_dense", Q=2, K=2300, dense=True, label_dtype=torch.uint8),
            Case("impossible_passages", edit=_impossible_passages),
            Case("not_a_number", edit=_not_a_number, options={"reduction": "none"}),
            Case("one_hot", edit=_one_hot, options={"temperature": 1e-3}),
            Case("same_scores", edit=_same_scores, dense=True),
            Case("hot", options={"temperature": 1e3}),
            Case("cold", options={"temperature": 1e-3}),
            Case("stray_labels_on_impossible_passages", edit=_stray_labels_on_impossible_passages, dense=True),
        )
    ]


def _packed() -> list[Case]:
    """Packed lists: short, empty, and long enough to be cut up."""
    short, long = (5, 0, 1, 9, 3), (700, 1, 0, 5000, 33)
    return [
        case
        for loss in LOSSES
        for case in (
            Case(f"packed_{loss}", loss, packed=short, options=_ALL_TERMS.get(loss, {})),
            Case(
                f"packed_{loss}_masked",
                loss,
                packed=short,
                mask="labels",
                weight=True,
                options=_ALL_TERMS.get(loss, {}),
            ),
            Case(f"packed_{loss}_long", loss, packed=long, label_dtype=torch.uint8, options=_ALL_TERMS.get(loss, {})),
        )
    ] + [
        Case("packed_p2_given", packed=short, target="given", options={"p": 2.0, "reduction": "none"}),
        Case("packed_kl_given", "listwise_kl", packed=short, target="given", label_dtype=torch.int16),
        Case("packed_label_temperatures", packed=short, label_temperatures=True, options={"reduction": "sum"}),
        Case("packed_positives", "info_nce", packed=short, positives=True, options={"negative_grade": 1}),
        Case("packed_nothing", packed=(0, 0)),
        Case("packed_one", packed=(7,)),
    ]


def _of_floats(name: str, loss: str = "grade_wasserstein", **case: Any) -> Case:
    """In float32, which holds the labels exactly, so that every dtype has the same problem."""
    options = _ALL_TERMS.get(loss, {}) | case.pop("options", {})
    return Case(f"floats_{name}", loss, **{"label_dtype": torch.float32} | case, options=options)


def _floats() -> list[Case]:
    """Labels that are any floats."""
    whole: dict[str, dict[str, Any]] = {
        "in_batch": {},
        "others_amid": {"options": {"in_batch": 0.25}},
        "excluded": {"mask": "labels", "options": {"in_batch": None}},
        "masked": {"mask": "scores", "weight": True, "K": 9},
        "dense": {"dense": True, "mask": "scores", "options": {"reduction": "none"}},
        "linear": {"target": "linear", "weight": True},
        "given": {"target": "given", "dense": True, "mask": "labels"},
        "given_to_others": {"target": "given", "options": {"reduction": "sum"}},
        "position": {"position": True, "dense": True},
        "impossible": {"edit": _impossible_passages, "dense": True, "options": {"reduction": "none"}},
        "no_place": {"edit": _no_place_on_impossible_passages, "dense": True, "label_dtype": torch.float64},
        "not_a_number": {"edit": _not_a_number, "options": {"reduction": "none"}},
        "one_hot": {"edit": _one_hot, "options": {"temperature": 1e-3}},
        "same_scores": {"edit": _same_scores, "dense": True},
        "equal": {"edit": _scores_are_labels, "dense": True, "options": {"reduction": "none"}},
        "wide": {"Q": 2, "K": 1500, "mask": "labels"},
        "wide_dense": {"Q": 2, "K": 1300, "dense": True, "label_dtype": torch.float64},
        "packed": {"packed": (5, 0, 1, 9, 3)},
        "packed_long": {"packed": (700, 1, 0, 5000, 33), "mask": "labels", "weight": True},
    }
    every_p: tuple[dict[str, Any], ...] = ({"p": 1.0}, {"p": 2.0}, {"p": 1.5, "temperature": 0.8})
    return [
        _of_floats(f"{name}_p{p['p']:g}", **case | {"options": p | case.get("options", {})})
        for p in every_p
        for name, case in whole.items()
    ] + [
        _of_floats("given_own", target="given_own", options={"p": 2.0}),
        _of_floats("exp2", target="exp2", edit=_positive_labels),
        _of_floats("half", label_dtype=torch.float16, label_temperatures=True),
        _of_floats("bfloat16", label_dtype=torch.bfloat16, dense=True),
        _of_floats("one_by_one", Q=1, K=1),
        _of_floats("no_query", Q=0, K=3),
        _of_floats("no_passage", Q=3, K=0),
        _of_floats("hot", options={"temperature": 1e3, "label_temperature": 1e3}),
        _of_floats("cold", options={"temperature": 1e-3, "label_temperature": 1e-3, "p": 2.0}),
        _of_floats("packed_nothing", packed=(0, 0)),
        _of_floats("best", "info_nce", mask="labels"),
        _of_floats("up_to", "info_nce", options={"negative_grade": 0.5}),
        _of_floats("packed_positives", "info_nce", packed=(5, 0, 1, 9, 3), positives=True),
        _of_floats("kl", "listwise_kl", weight=True, label_temperatures=True),
        _of_floats("packed_kl", "listwise_kl", packed=(5, 0, 1, 9, 3), target="linear"),
        _of_floats("all_in_batch", "combined_loss", options={"p": 2.0}),
        _of_floats("all_excluded", "combined_loss", mask="labels", options={"in_batch": None}),
        _of_floats("all_dense", "combined_loss", dense=True, weight=True, mask="scores", target="linear"),
        _of_floats(
            "all_given", "combined_loss", dense=True, target="given", positives=True, options={"reduction": "none"}
        ),
        _of_floats("all_given_to_others", "combined_loss", target="given", mask="scores"),
        _of_floats("all_given_own", "combined_loss", target="given_own", positives=True),
        _of_floats("without_info_nce", "combined_loss", label_temperatures=True, options={"info_nce": 0.0}),
        _of_floats("without_kl", "combined_loss", positives=True, options={"kl": 0.0, "reduction": "sum"}),
        _of_floats("all_no_gain", "combined_loss", target="linear", edit=_no_relevant_passage),
        _of_floats("all_impossible", "combined_loss", edit=_impossible_passages, dense=True),
        _of_floats("all_not_a_number", "combined_loss", edit=_not_a_number, options={"reduction": "none"}),
        _of_floats("all_cold", "combined_loss", options={"temperature": 1e-3}),
        _of_floats("all_wide", "combined_loss", Q=2, K=1500, mask="labels"),
        _of_floats("all_packed", "combined_loss", packed=(5, 0, 1, 9, 3), mask="labels", weight=True),
        _of_floats(
            "all_packed_long", "combined_loss", packed=(700, 1, 0, 5000, 33), positives=True, options={"p": 2.0}
        ),
    ]


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
    Case("position", options={"position": [0.0, 0.5, 3.0, 4.0], "num_levels": 4, "p": 2.0}),
    Case("position_falling", dense=True, options={"position": [5.0, 2.0, 2.0, -1.0], "num_levels": 4}),
    Case("position_p1.5", mask="labels", options={"position": [0.0, 1.0, 3.0, 7.0], "num_levels": 4, "p": 1.5}),
    Case("label_temperatures", label_temperatures=True, options={"p": 2.0}),
    Case("label_temperatures_dense", label_temperatures=True, dense=True, mask="scores"),
    *_of_every_loss(),
    Case("info_nce_positives", "info_nce", positives=True, weight=True),
    Case("info_nce_positives_masked", "info_nce", positives=True, mask="labels", options={"reduction": "none"}),
    Case("info_nce_positives_up_to_0", "info_nce", positives=True, options={"negative_grade": 0, "temperature": 0.5}),
    Case("info_nce_positives_dense", "info_nce", positives=True, dense=True, edit=_impossible_passages),
    Case("info_nce_up_to_1", "info_nce", options={"negative_grade": 1}),
    Case("info_nce_no_own_negatives", "info_nce", mask="scores", options={"negative_grade": -1}),
    Case("info_nce_up_to_1_excluded", "info_nce", options={"negative_grade": 1, "in_batch": None}),
    Case("info_nce_others_of_grade_2", "info_nce", options={"in_batch": 2, "negative_grade": 2}),
    Case("info_nce_best_is_others_grade", "info_nce", edit=_no_relevant_passage, options={"negative_grade": 0}),
    Case("kl_linear", "listwise_kl", target="linear", edit=_no_relevant_passage),
    Case("kl_exp2_dense", "listwise_kl", target="exp2", dense=True, mask="labels", weight=True),
    Case("kl_given", "listwise_kl", target="given", mask="labels", options={"temperature": 0.5}),
    Case("kl_given_dense", "listwise_kl", target="given", dense=True, edit=_impossible_passages, weight=True),
    Case("kl_given_own", "listwise_kl", target="given_own", options={"in_batch": None, "reduction": "sum"}),
    Case("kl_given_own_in_batch", "listwise_kl", target="given_own", options={"reduction": "none"}),
    Case("kl_given_not_a_number", "listwise_kl", target="given_nan", options={"reduction": "none"}),
    Case("kl_label_temperatures", "listwise_kl", label_temperatures=True),
    Case("kl_p_equals_t", "listwise_kl", edit=_scores_are_labels, dense=True),
    Case("combined_all", "combined_loss", options={"wasserstein": 0.5, "info_nce": 0.3, "kl": 2.0, "p": 2.0}),
    Case("combined_kl", "combined_loss", dense=True, options={"kl": 0.5, "temperature": 0.2}),
    Case(
        "combined_without_gains", "combined_loss", target="linear", edit=_no_relevant_passage, options={"info_nce": 1.0}
    ),
    Case("combined_given", "combined_loss", target="given", positives=True, options={"info_nce": 0.2, "kl": 0.7}),
    Case("combined_excluded", "combined_loss", mask="labels", options={"info_nce": 0.5, "kl": 1.0, "in_batch": None}),
    Case("combined_position", "combined_loss", options={"kl": 1.0, "position": [0.0, 1.0, 3.0, 7.0], "num_levels": 4}),
    *_packed(),
    *_floats(),
]

LEVEL_CASES = [case for case in CASES if not case.is_sorted]
SORTED_CASES = [case for case in CASES if case.is_sorted]
