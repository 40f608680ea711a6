"""The operators' arguments by name, for those who call and who implement them: of `wassrank::level_losses[_backward]`,
and below of `wassrank::sorted_losses[_backward]` and `wassrank::wasserstein_1d[_backward]`. What they mean:
wassrank/ops/level_losses.py, sorted_losses.py, wasserstein_1d.py."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wassrank.codes import Reduction, Target

EXTRA = 4
"""Numbers of an affine state beside its two a level."""


class Arguments(NamedTuple):
    """Of `wassrank::level_losses`, in order. C is the computing dtype, float64 for float64 scores, else float32; all
    tensors are contiguous."""

    scores: Tensor  # [Q, N]; packed lists [T]
    labels: Tensor  # integers, [Q, N] or [Q, K] with N = Q·K; packed [T]
    target: Tensor | None = None  # [Q, N] or [Q, K] of C; packed [T]
    mask: Tensor | None = None  # bool, [Q, N] or, one flag a passage for every row, N = Q·K elements; packed [T]
    weight: Tensor | None = None  # [Q] of C
    label_temperatures: Tensor | None = None  # [Q] of C, in place of label_temperature
    positives: Tensor | None = None  # [Q] int64: the positive's place among the row's own passages; outside: none
    offsets: Tensor | None = None  # [Q + 1] int64: where each packed list begins, and the end
    position: Tensor | None = None  # [num_levels] float64 on the CPU, rising; None: 0, 1, 2, …
    wasserstein: float = 1.0  # the losses' factors; one that is 0 is not computed
    info_nce: float = 0.0
    kl: float = 0.0
    target_kind: int = int(Target.softmax)
    reduction: int = int(Reduction.mean)
    in_batch: int = 0
    num_levels: int = 8
    p: float = 1.0
    temperature: float = 1.0
    label_temperature: float = 1.0

    @property
    def queries(self) -> int:
        return self.scores.shape[0] if self.offsets is None else self.offsets.shape[0] - 1

    @property
    def state_width(self) -> int:
        L = self.num_levels
        return 2 * L + EXTRA if self.info_nce or self.kl else L + 1


class BackwardArguments(NamedTuple):
    """Of `wassrank::level_losses_backward`, in order."""

    grad_loss: Tensor  # [] or [Q] of C
    scores: Tensor
    labels: Tensor
    target: Tensor | None  # where kl looked at a given one
    mask: Tensor | None
    positives: Tensor | None
    offsets: Tensor | None
    state: Tensor  # [Q, num_levels + 1] or [Q, 2·num_levels + EXTRA]
    scale: Tensor  # []
    in_batch: int
    num_levels: int
    temperature: float


OTHERS = 0
"""`in_batch` for "other queries' passages take part"; at which label says `others_label`."""

SORTED_STATE_WIDTH = 4
"""c, b and f of other queries' passages, and the row's maximum."""


class SortedArguments(NamedTuple):
    """Of `wassrank::sorted_losses`, in order. C is the computing dtype; all tensors are contiguous."""

    scores: Tensor  # [Q, N]; packed lists [T]
    labels: Tensor  # [Q, N] or [Q, K] with N = Q·K, of C; packed [T]
    # int32, as labels: the places of a row's labelled passages by rising coordinate. None: the kernels find it
    # themselves, as those for the CPU can.
    order: Tensor | None
    target: Tensor | None = None  # [Q, N] or [Q, K] of C; packed [T]
    mask: Tensor | None = None  # bool, [Q, N] or, one flag a passage for every row, N elements; packed [T]
    weight: Tensor | None = None  # [Q] of C
    label_temperatures: Tensor | None = None  # [Q] of C, in place of label_temperature
    positives: Tensor | None = None  # [Q] int64: the positive's place among the row's own passages; outside: none
    offsets: Tensor | None = None  # [Q + 1] int64
    position: Tensor | None = None  # as labels: the coordinates, in the labels' place
    wasserstein: float = 1.0  # the losses' factors; one that is 0 is not computed
    info_nce: float = 0.0
    kl: float = 0.0
    target_kind: int = int(Target.softmax)
    reduction: int = int(Reduction.mean)
    in_batch: int = OTHERS
    others_label: float = 0.0
    p: float = 1.0
    temperature: float = 1.0
    label_temperature: float = 1.0

    @property
    def queries(self) -> int:
        return self.scores.shape[0] if self.offsets is None else self.offsets.shape[0] - 1

    @property
    def affine(self) -> bool:
        return bool(self.info_nce or self.kl)


class SortedBackwardArguments(NamedTuple):
    """Of `wassrank::sorted_losses_backward`, in order."""

    grad_loss: Tensor  # [] or [Q] of C
    scores: Tensor
    coefficient: Tensor  # as labels, of C: c
    constant: Tensor | None  # as labels, of C: b; None where all are 0
    target: Tensor | None  # [Q, N], where KL looks at what others are given
    mask: Tensor | None
    offsets: Tensor | None
    state: Tensor  # [Q, 4]
    scale: Tensor  # []
    temperature: float


TRITON_SORTS = 256
"""The longest row of float32 that Triton sorts: a sort is code for each of its compare-exchange stages, and one of 1024
takes seconds to compile."""


LONGEST_ON_CUDA = {torch.float32: 8192, torch.float64: 4096}
"""Of the rows a block of csrc/cuda/grade_order.cu sorts, by the dtype they are computed in."""


class PairArguments(NamedTuple):
    """Of `wassrank::wasserstein_1d`, in order: R pairs of weighted point sets on a line. C is the computing dtype; all
    tensors are contiguous. What a side gives is [R, n], or [1, n] where all pairs share it; packed [T]."""

    u_values: Tensor
    v_values: Tensor  # of u_values' dtype; its n is another
    u_weights: Tensor | None = None  # of C; None: all alike
    v_weights: Tensor | None = None
    u_mask: Tensor | None = None  # bool
    v_mask: Tensor | None = None
    u_offsets: Tensor | None = None  # [R + 1] int64: where each packed list begins, and the end
    v_offsets: Tensor | None = None
    pairs: int = 0  # R
    wanted: int = 0  # bit k: a gradient for the k-th tensor of these
    p: float = 1.0


class PairBackwardArguments(NamedTuple):
    """Of `wassrank::wasserstein_1d_backward`, in order. The slopes and potentials are [R, n] even where pairs share a
    side (packed [T]), of C; [0] where they are not wanted. So are the gradients it returns, of their inputs' shapes and
    dtypes."""

    grad_loss: Tensor  # [R] of C
    u_values: Tensor
    v_values: Tensor
    u_weights: Tensor | None
    v_weights: Tensor | None
    u_offsets: Tensor | None
    v_offsets: Tensor | None
    u_slope: Tensor
    v_slope: Tensor
    u_potential: Tensor
    v_potential: Tensor
    wanted: int

    @property
    def leaves(self) -> tuple[Tensor | None, ...]:
        return self.u_values, self.v_values, self.u_weights, self.v_weights

    @property
    def kept(self) -> tuple[Tensor, ...]:
        return self.u_slope, self.v_slope, self.u_potential, self.v_potential
