"""Argument checks shared by the public functions: one clear error each, from shapes and dtypes alone.

Nothing here reads what a tensor holds on a GPU, so no check makes the host wait for the device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

MAX_LEVELS = 32
"""Grades 0 … 31: one level a lane in the CUDA kernels' row epilogue."""

TARGETS = ("auto", "softmax", "linear", "exp2")
REDUCTIONS = ("mean", "sum", "none")
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_scores(scores: Tensor, offsets: Tensor | None) -> None:
    if not isinstance(scores, Tensor):
        raise TypeError(f"scores must be a tensor, got {type(scores).__name__}")
    if scores.dtype not in FLOATS:
        raise TypeError(
            f"scores must be float64, float32, float16 or bfloat16, got {scores.dtype}: a softmax of integers has no "
            f"gradient; convert with scores.float()"
        )
    if offsets is None:
        if scores.dim() != 2:
            raise ValueError(
                f"scores must be [Q, N] (queries, passages scored for each), got shape {tuple(scores.shape)}"
            )
        return
    if scores.dim() != 1:
        raise ValueError(f"with offsets scores are packed, [T] (one list behind the other), got {tuple(scores.shape)}")
    if not isinstance(offsets, Tensor) or offsets.dtype not in INTEGERS or offsets.dim() != 1 or len(offsets) < 1:
        got = f"{offsets.dtype} {tuple(offsets.shape)}" if isinstance(offsets, Tensor) else type(offsets).__name__
        raise TypeError(f"offsets must be integers [Q + 1] (where each list begins, and the end), got {got}")
    check_device("offsets", offsets, scores)
    if offsets.device.type == "cpu" and not torch.compiler.is_compiling():
        check_offsets(offsets, len(scores))


def check_offsets(offsets: Tensor, total: int, name: str = "offsets", of: str = "scores") -> None:
    """Reads them."""
    at = offsets.cpu().numpy()  # whose small operations cost a fraction of torch's
    first, last = int(at[0]), int(at[-1])
    if first != 0:
        raise ValueError(f"{name} must start at 0, where the first list begins; got {first}")
    falls = at[1:] < at[:-1]
    if falls.any():
        i = int(falls.argmax())
        raise ValueError(
            f"{name} must not decrease: list {i} would run from {int(at[i])} to {int(at[i + 1])}; they are "
            f"running sums of the lists' lengths"
        )
    if last != total:
        raise ValueError(f"{name} must end at {total}, the number of packed {of}; got {last}")


def queries(scores: Tensor, offsets: Tensor | None) -> int:
    return scores.shape[0] if offsets is None else len(offsets) - 1


def check_labels(scores: Tensor, labels: Tensor, offsets: Tensor | None, *, shared: bool = False) -> None:
    """`shared`: the batch has queries elsewhere, so that how many passages there must be is not known here."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
    if labels.dtype not in INTEGERS + FLOATS:
        raise TypeError(
            f"labels must be integer grades (int64, int32, int16, int8 or uint8) or floats (a teacher's scores), got "
            f"{labels.dtype}"
        )
    check_device("labels", labels, scores)
    if offsets is not None:
        if labels.shape != scores.shape:
            raise ValueError(f"packed labels must be [{len(scores)}], one a score, got {tuple(labels.shape)}")
        return
    Q, N = scores.shape
    if labels.dim() != 2 or labels.shape[0] != Q:
        raise ValueError(
            f"labels must have one row a query: scores are [{Q}, {N}], so labels are [{Q}, {N}] (every passage graded) "
            f"or [{Q}, K] with N = Q*K (own passages graded); got {tuple(labels.shape)}"
        )
    K = labels.shape[1]
    if K != N and Q * K != N and not shared:
        raise ValueError(
            f"labels [{Q}, {K}] do not fit scores [{Q}, {N}]: N must be K={K} (every passage graded) or Q*K={Q * K} "
            f"(query-major in-batch passages, query i's own in columns i*K to i*K+K-1); with any other N it is not "
            f"known which passages belong to which query"
        )


def check_device(name: str, tensor: Tensor, scores: Tensor, of: str = "scores") -> None:
    if tensor.device != scores.device:
        raise ValueError(
            f"{name} are on {tensor.device} and {of} on {scores.device}: move them to one device, "
            f"{name}.to({of}.device)"
        )


def check_mask(scores: Tensor, labels: Tensor, mask: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool tensor (True = a real passage), got {got}: use mask.bool()")
    check_device("mask", mask, scores)
    if mask.shape != scores.shape and mask.shape != labels.shape:
        raise ValueError(
            f"mask must have the shape of scores {tuple(scores.shape)} or of labels {tuple(labels.shape)}, got "
            f"{tuple(mask.shape)}: each passage must be known to be real or padding"
        )


def chosen_target(target: str | Tensor, labels: Tensor) -> str | Tensor:
    """What "auto" stands for: the gains of integer grades; the softmax of floats, which may be below zero."""
    if not isinstance(target, str) or target != "auto" or not isinstance(labels, Tensor):
        return target
    return "softmax" if labels.is_floating_point() else "linear"


def check_target(scores: Tensor, labels: Tensor, target: str | Tensor) -> None:
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


def check_asked(
    scores: Tensor,
    labels: Tensor,
    Q: int,
    label_temperature: float | Tensor,
    target: str | Tensor,
    mask: Tensor | None,
    in_batch: float | None,
    num_levels: int,
) -> None:
    """All that says what the labels ask for."""
    if mask is not None:
        check_mask(scores, labels, mask)
    check_target(scores, labels, target)
    if isinstance(label_temperature, Tensor):
        check_one_a_query("label_temperature", label_temperature, scores, Q)
    else:
        check_positive("label_temperature", label_temperature, "labels are divided by it")
    if labels.is_floating_point():
        check_in_batch_value(in_batch)
    else:
        check_levels(num_levels, in_batch)


def check_one_a_query(name: str, values: Tensor, scores: Tensor, Q: int) -> None:
    if not isinstance(values, Tensor) or values.dtype not in FLOATS:
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} must be a floating tensor, one number a query, got {got}")
    check_device(name, values, scores)
    if values.shape != (Q,):
        raise ValueError(
            f"{name} must be [{Q}], one a query (scores are {tuple(scores.shape)}), got {tuple(values.shape)}"
        )


def check_positives(positives: Tensor, scores: Tensor, Q: int) -> None:
    if not isinstance(positives, Tensor) or positives.dtype not in INTEGERS:
        got = positives.dtype if isinstance(positives, Tensor) else type(positives).__name__
        raise TypeError(f"positives must be an integer tensor, a place among each query's own passages, got {got}")
    check_device("positives", positives, scores)
    if positives.shape != (Q,):
        raise ValueError(f"positives must be [{Q}], one a query, got {tuple(positives.shape)}")


def check_ordering(order: Tensor, labels: Tensor) -> None:
    if not labels.is_floating_point():
        raise ValueError(
            f"order is for float labels, which are sorted; labels are {labels.dtype} grades, which are not"
        )
    if not isinstance(order, Tensor) or order.dtype != torch.int32 or order.shape != labels.shape:
        got = f"{order.dtype} {tuple(order.shape)}" if isinstance(order, Tensor) else type(order).__name__
        raise TypeError(f"order must be what wassrank.grade_order gave for labels {tuple(labels.shape)}, got {got}")
    check_device("order", order, labels)


def check_symmetric(
    scores: Tensor, labels: Tensor, in_batch: float | None, offsets: Tensor | None, reduction: str
) -> None:
    if offsets is not None or scores.shape[1] != scores.shape[0] * labels.shape[1] or in_batch is None:
        raise ValueError(
            f"symmetric=True ranks queries for each positive passage: scores must be [Q, Q*K] with labels [Q, K] and "
            f"in_batch a grade; got scores {tuple(scores.shape)}, labels {tuple(labels.shape)}, in_batch={in_batch}"
        )
    if reduction == "none":
        raise ValueError("symmetric=True has no loss a query: reduction must be 'mean' or 'sum', got 'none'")


def check_factors(**factors: float) -> None:
    for name, factor in factors.items():
        if not (0 <= factor < math.inf):
            raise ValueError(f"{name} must be a finite number >= 0, the loss's factor, got {factor}")
    if not any(factors.values()):
        raise ValueError(f"one of {tuple(factors)} must be more than 0: there is nothing to compute")


def line(
    position: Sequence[float] | Tensor,
    scores: Tensor,
    labels: Tensor,
    num_levels: int,
    in_batch: float | None,
) -> Tensor:
    """The coordinates as the losses take them: for integer labels [num_levels] float64 on the CPU, rising (the distance
    does not change when the line is turned round); for float labels a tensor as it came."""
    if labels.is_floating_point():
        if not isinstance(position, Tensor) or position.dtype not in FLOATS:
            got = position.dtype if isinstance(position, Tensor) else type(position).__name__
            raise TypeError(f"for float labels position must be a floating tensor of their shape, got {got}")
        check_device("position", position, scores)
        if position.shape != labels.shape:
            raise ValueError(
                f"position must have the shape of labels {tuple(labels.shape)}, got {tuple(position.shape)}"
            )
        if labels.shape != scores.shape and in_batch is not None:
            raise ValueError(
                f"position {tuple(position.shape)} says nothing of other queries' passages, which in_batch={in_batch} "
                f"lets take part: pass in_batch=None, or labels and position for all of scores {tuple(scores.shape)}"
            )
        return position
    if isinstance(position, Tensor) and position.device.type != "cpu":
        raise ValueError(
            f"for integer labels position is a list of numbers or a CPU tensor, one coordinate a grade; got a tensor "
            f"on {position.device}, which the host would have to wait for"
        )
    at = [float(x) for x in position]
    if len(at) != num_levels:
        raise ValueError(
            f"position must hold a coordinate for each of num_levels={num_levels} grades, got {len(at)} numbers: pass "
            f"num_levels={len(at)} if that is how many grades there are"
        )
    steps = [b - a for a, b in itertools.pairwise(at)]
    if not all(map(math.isfinite, at)) or not (all(s >= 0 for s in steps) or all(s <= 0 for s in steps)):
        raise ValueError(f"position must be finite and rise or fall with the grade throughout, got {at}")
    if any(s < 0 for s in steps):
        at = [-x for x in at]
    return torch.tensor(at, dtype=torch.float64)


def check_values(
    labels: Tensor, target: str | Tensor, mask: Tensor | None, offsets: Tensor | None, num_levels: int | None
) -> None:
    """What can only be known by reading the tensors."""
    if offsets is not None:
        check_offsets(offsets, labels.numel())
    real = labels if mask is None or mask.shape != labels.shape else labels[mask]
    if num_levels is None and not real.isfinite().all():
        raise ValueError("labels hold NaN or infinity: mark padding with mask, not with a label")
    if num_levels is not None and real.numel() and not 0 <= int(real.min()) <= int(real.max()) < num_levels:
        raise ValueError(
            f"labels hold grades {int(real.min())} ... {int(real.max())}, but grades must lie in 0 ... num_levels-1 = "
            f"{num_levels - 1}"
        )
    if not isinstance(target, Tensor):
        return
    if not (target >= 0).all():
        raise ValueError("target holds a negative or NaN mass: it must be a distribution over each row's passages")
    masses = target.double()
    if offsets is None:
        sums, empty = masses.sum(-1), torch.zeros(len(target), dtype=torch.bool)
    else:
        sums, empty = torch.segment_reduce(masses, "sum", offsets=offsets.long(), initial=0), offsets.diff() == 0
    off = (((sums - 1).abs() > 1e-3) & ~empty.to(sums.device)).nonzero().flatten()
    if len(off):
        row = int(off[0])
        raise ValueError(f"target's row {row} sums to {float(sums[row]):.6g}, not to 1")


def check_positive(name: str, value: float, why: str) -> None:
    if not (0 < value < math.inf):
        raise ValueError(f"{name} must be a positive finite number, got {value}: {why}")


def check_eps(eps: float, covariance: str) -> None:
    if not (0 <= eps < math.inf):
        raise ValueError(f"eps must be a finite number >= 0, got {eps}: it is added under a root")
    if eps and covariance != "full":
        raise ValueError(
            f"eps={eps} is for covariance='full', to compare with published runs; with {covariance!r} there are none"
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def check_order(p: float) -> None:
    if not (1 <= p < math.inf):
        raise ValueError(
            f"p must be a finite number >= 1, got {p}: below 1, |x - y|^p is not convex and sorting does not solve it"
        )


def check_batch_statistic(loss: str, arguments: Iterable[str]) -> None:
    """Refuses what other losses take and one number of the whole batch has no use for."""
    reasons = {
        "weight": "every query is one sample of the batch's Gaussian; leave out with mask those that should be none",
        "reduction": "it compares statistics of the whole batch and has no loss a query to reduce",
        "offsets": "it compares passages column by column, and packed lists have no columns in common",
        "position": "it compares probabilities passage by passage and puts none on a line",
        "p": "it is the 2-Wasserstein distance of two Gaussians, which has a closed form for no other p",
    }
    for name in arguments:
        if name not in reasons:
            raise TypeError(f"{loss} has no argument {name!r}")
        raise TypeError(f"{loss} takes no {name}: {reasons[name]}")


def check_levels(num_levels: int, in_batch: float | None) -> None:
    if not (1 <= num_levels <= MAX_LEVELS):
        raise ValueError(f"num_levels must lie in 1 ... {MAX_LEVELS}, got {num_levels}")
    if in_batch is not None and (int(in_batch) != in_batch or not (0 <= in_batch < num_levels)):
        raise ValueError(
            f"in_batch must be a grade in 0 ... num_levels-1 = {num_levels - 1}, or None to leave other queries' "
            f"passages out; got {in_batch}"
        )


def check_in_batch_value(in_batch: float | None) -> None:
    if in_batch is not None and not math.isfinite(in_batch):
        raise ValueError(
            f"in_batch must be a finite label, or None to leave other queries' passages out; got {in_batch}"
        )
