"""Argument checks shared by the public functions: one clear error each, from shapes and dtypes alone.

Nothing here reads what a tensor holds on a GPU, so no check makes the host wait for the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LEVELS = 32
"""Grades 0 … 31: one level a lane in the CUDA kernels' row epilogue."""

TARGETS = ("softmax", "linear", "exp2")
REDUCTIONS = ("mean", "sum", "none")
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_scores(scores: Tensor) -> None:
    if not isinstance(scores, Tensor):
        raise TypeError(f"scores must be a tensor, got {type(scores).__name__}")
    if scores.dtype not in FLOATS:
        raise TypeError(
            f"scores must be float64, float32, float16 or bfloat16, got {scores.dtype}: a softmax of integers has no "
            f"gradient; convert with scores.float()"
        )
    if scores.dim() != 2:
        raise ValueError(f"scores must be [Q, N] (queries, passages scored for each), got shape {tuple(scores.shape)}")


def check_labels(scores: Tensor, labels: Tensor) -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
    if labels.dtype not in INTEGERS:
        raise TypeError(
            f"labels must be integer grades (int64, int32, int16, int8 or uint8), got {labels.dtype}: each grade is a "
            f"level of its own; round teacher scores to grades first"
        )
    check_device("labels", labels, scores)
    Q, N = scores.shape
    if labels.dim() != 2 or labels.shape[0] != Q:
        raise ValueError(
            f"labels must have one row a query: scores are [{Q}, {N}], so labels are [{Q}, {N}] (every passage graded) "
            f"or [{Q}, K] with N = Q*K (own passages graded); got {tuple(labels.shape)}"
        )
    K = labels.shape[1]
    if K != N and Q * K != N:
        raise ValueError(
            f"labels [{Q}, {K}] do not fit scores [{Q}, {N}]: N must be K={K} (every passage graded) or Q*K={Q * K} "
            f"(query-major in-batch passages, query i's own in columns i*K to i*K+K-1); with any other N it is not "
            f"known which passages belong to which query"
        )


def check_device(name: str, tensor: Tensor, scores: Tensor) -> None:
    if tensor.device != scores.device:
        raise ValueError(
            f"{name} are on {tensor.device} and scores on {scores.device}: move them to one device, "
            f"{name}.to(scores.device)"
        )


def check_mask(scores: Tensor, labels: Tensor, mask: Tensor | None) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool tensor (True = a real passage), got {got}: use mask.bool()")
    check_device("mask", mask, scores)
    if mask.shape != scores.shape and mask.shape != labels.shape:
        raise ValueError(
            f"mask must have the shape of scores {tuple(scores.shape)} or of labels {tuple(labels.shape)}, got "
            f"{tuple(mask.shape)}: each passage must be known to be real or padding"
        )


def check_target(scores: Tensor, labels: Tensor, target: str | Tensor, backend: str) -> None:
    if isinstance(target, str):
        if target not in TARGETS:
            raise ValueError(f"target must be one of {TARGETS} or a tensor of probabilities, got {target!r}")
        return
    if not isinstance(target, Tensor) or target.dtype not in FLOATS:
        got = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(f"target must be one of {TARGETS} or a floating tensor of probabilities, got {got}")
    check_device("target", target, scores)
    if target.shape != scores.shape and target.shape != labels.shape:
        raise ValueError(
            f"target must have the shape of scores {tuple(scores.shape)} or of labels {tuple(labels.shape)}, got "
            f"{tuple(target.shape)}"
        )
    check_no_gradient("target", target, backend)


def check_weight(scores: Tensor, weight: Tensor | None, backend: str) -> None:
    if weight is None:
        return
    if not isinstance(weight, Tensor) or weight.dtype not in FLOATS:
        got = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"weight must be a floating tensor, one number a query, got {got}")
    check_device("weight", weight, scores)
    if weight.shape != scores.shape[:1]:
        raise ValueError(
            f"weight must be [{scores.shape[0]}], one a query (scores are {tuple(scores.shape)}), got "
            f"{tuple(weight.shape)}"
        )
    check_no_gradient("weight", weight, backend)


def check_no_gradient(name: str, tensor: Tensor, backend: str) -> None:
    if backend != "torch" and tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires a gradient and backend {backend!r} gives none, so training would silently ignore it: "
            f"pass {name}.detach(), or backend='torch', which differentiates everything"
        )


def check_positive(name: str, value: float, why: str) -> None:
    if not (0 < value < math.inf):
        raise ValueError(f"{name} must be a positive finite number, got {value}: {why}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def check_order(p: float) -> None:
    if not (1 <= p < math.inf):
        raise ValueError(
            f"p must be a finite number >= 1, got {p}: below 1, |x - y|^p is not convex and sorting does not solve it"
        )


def check_levels(num_levels: int, in_batch: int | None) -> None:
    if not (1 <= num_levels <= MAX_LEVELS):
        raise ValueError(f"num_levels must lie in 1 ... {MAX_LEVELS}, got {num_levels}")
    if in_batch is not None and not (0 <= in_batch < num_levels):
        raise ValueError(
            f"in_batch must be a grade in 0 ... num_levels-1 = {num_levels - 1}, or None to leave other queries' "
            f"passages out; got {in_batch}"
        )
