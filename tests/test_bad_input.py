"""Every wrong call is one ValueError or TypeError that says what came and what was expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wassrank import grade_wasserstein

SCORES = torch.zeros(3, 12)
LABELS = torch.zeros(3, 4, dtype=torch.int64)
LEARNED = torch.ones(3, 4, requires_grad=True)

WRONG: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("scores_no_tensor", TypeError, "scores must be a tensor, got list", {"scores": [[0.0]]}),
    ("integer_scores", TypeError, r"got torch.int64.*scores.float\(\)", {"scores": SCORES.long()}),
    ("scores_1d", ValueError, r"scores must be \[Q, N\].*\(12,\)", {"scores": SCORES[0]}),
    ("float_labels", TypeError, "integer grades.*got torch.float32", {"labels": LABELS.float()}),
    ("bool_labels", TypeError, "integer grades.*got torch.bool", {"labels": LABELS.bool()}),
    ("labels_of_other_queries", ValueError, r"one row a query.*\(2, 4\)", {"labels": LABELS[:2]}),
    ("labels_1d", ValueError, r"one row a query.*\(4,\)", {"labels": LABELS[0]}),
    ("not_a_multiple", ValueError, r"labels \[3, 5\] do not fit scores.*Q\*K=15", {"labels": LABELS[:, [0] * 5]}),
    ("temperature_0", ValueError, "temperature must be a positive finite number, got 0", {"temperature": 0}),
    ("temperature_nan", ValueError, "temperature must be .*got nan", {"temperature": float("nan")}),
    ("label_temperature", ValueError, "label_temperature must be .*got -1", {"label_temperature": -1.0}),
    ("p_below_1", ValueError, "p must be a finite number >= 1, got 0.5", {"p": 0.5}),
    ("p_inf", ValueError, "p must be a finite number >= 1, got inf", {"p": float("inf")}),
    ("grade_too_high", ValueError, "grade 8.*num_levels-1 = 7.*larger num_levels", {"labels": LABELS + 8}),
    ("grade_negative", ValueError, "grade -1.*mask", {"labels": LABELS - 1}),
    ("grade_beyond_32_bits", ValueError, "grade 4294967296", {"labels": LABELS + 2**32}),
    ("num_levels_0", ValueError, "num_levels must lie in 1 ... 32, got 0", {"num_levels": 0}),
    ("num_levels_33", ValueError, "num_levels must lie in 1 ... 32, got 33", {"num_levels": 33}),
    ("in_batch", ValueError, "in_batch must be a grade in 0 ... num_levels-1 = 7.*got 9", {"in_batch": 9}),
    ("mask_dtype", TypeError, "mask must be a bool tensor.*got torch.int64", {"mask": LABELS}),
    ("mask_shape", ValueError, r"mask must have .*\(3, 12\).*\(3, 4\), got \(3, 3\)", {"mask": LABELS[:, :3].bool()}),
    ("mask_no_tensor", TypeError, "mask must be a bool tensor.*got list", {"mask": [True]}),
    ("weight_shape", ValueError, r"weight must be \[3\].*got \(4,\)", {"weight": torch.ones(4)}),
    ("weight_dtype", TypeError, "weight must be a floating tensor.*int64", {"weight": torch.ones(3).long()}),
    ("target_name", ValueError, "target must be one of.*'gains'", {"target": "gains"}),
    ("target_dtype", TypeError, "target must be.*int64", {"target": LABELS}),
    ("target_shape", ValueError, r"target must have the shape.*got \(3, 5\)", {"target": torch.ones(3, 5)}),
    ("target_gradient", ValueError, "target requires a gradient.*detach", {"target": LEARNED, "backend": "native"}),
    ("weight_gradient", ValueError, "weight requires a gradient", {"weight": LEARNED[:, 0], "backend": "native"}),
    ("reduction", ValueError, "reduction must be one of.*'average'", {"reduction": "average"}),
    ("backend", ValueError, "backend must be 'auto' or one of.*'cuda'", {"backend": "cuda"}),
    ("devices", ValueError, "labels are on meta and scores on cpu", {"labels": LABELS.to("meta")}),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize(("error", "says", "arguments"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_call_is_refused(error: type[Exception], says: str, arguments: dict[str, Any], backend: str) -> None:
    call: dict[str, Any] = {"scores": SCORES, "labels": LABELS, "backend": backend} | arguments
    with pytest.raises(error, match=says):
        grade_wasserstein(**call)


def test_a_stray_grade_is_refused_wherever_it_stands() -> None:
    """In a long row and in a narrow label type too, and not where the passage takes no part."""
    scores, labels = torch.zeros(2, 5000), torch.zeros(2, 5000, dtype=torch.int8)
    labels[1, 4321] = 9
    with pytest.raises(ValueError, match="grade 9"):
        grade_wasserstein(scores, labels)
    mask = torch.ones(2, 5000, dtype=torch.bool)
    mask[1, 4321] = False
    assert grade_wasserstein(scores, labels, mask=mask) == 0
