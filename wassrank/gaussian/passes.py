"""What a backend brings to the batch-Gaussian distance: passes over the scores. A forward has three, since columns'
means want the rows' totals, and sums about the means want these; a backward has one. GPUs' moments read a tile of
columns twice, the second time from cache.

All results are float64 whatever the scores are in: near P = T the distance is a small difference of large traces. With
scores within 1e-3 of the labels, Q = 256 and K = 4, float32 throughout has the loss off by 7 % and its gradient by
2e-4. Formulas and letters are those of wassrank/reference/gaussian_wasserstein.py.

P_in = exp((S_in − TOP_i) / temperature) · INVERSE_i where n is real in row i, else 0;
T_in = gain(label_in − LABEL_TOP_i) · LABEL_INVERSE_i for passages whose labels the row has, REST_i for the other real
ones; both 0 in rows that are no samples. Real is who takes part: mask, in_batch, and no score of −inf.

Two forms. "Blocks": labels, and a target if one is given, are [Q, K], and the mask, if any, is the same for every row.
Then T_in = REST_i + w_n [n is i's own], w [N] the excess, and products with T cost a sweep over P. Otherwise T is
"written out", tile by tile, and its products are matrix products.

A score of −inf in a row makes its T no such sum. On the CPU it is known before the form is chosen. On a GPU, which is
not asked, kernels of the block form look at a flag and, where it is set, do the sums over T the long way.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from wassrank.codes import Target


class Arguments(NamedTuple):
    """Of `wassrank::gaussian_wasserstein`, in order; all tensors are contiguous."""

    scores: Tensor  # [Q, N]
    labels: Tensor  # [Q, N] or [Q, K]
    target: Tensor | None = None  # float64, [Q, N] or [Q, K]
    mask: Tensor | None = None  # bool, [Q, N] or, one flag a passage for every row, [N]
    label_temperatures: Tensor | None = None  # [Q] float64, in place of label_temperature
    target_kind: int = int(Target.softmax)
    in_batch: float | None = 0.0  # None leaves other queries' passages out
    num_levels: int | None = 8  # integer labels lie below; None: labels are floats
    temperature: float = 1.0
    label_temperature: float = 1.0
    diagonal: bool = False
    eps: float = 0.0

    @property
    def blocks(self) -> bool:
        """Whether arguments have the form of blocks (−inf among the scores is another matter)."""
        own = self.labels.shape != self.scores.shape
        given_to_all = self.target is not None and self.target.shape != self.labels.shape
        return own and not given_to_all and (self.mask is None or self.mask.dim() == 1)


class Row(IntEnum):
    """Columns of the row state."""

    TOP = 0  # the maximum of real scores; 0 where there is none
    INVERSE = 1  # 1 / Σ exp; 0: no sample; NaN for a row with a score or label that is no number
    LABEL_TOP = 2  # what softmax takes off a label first; 0 for other targets
    LABEL_INVERSE = 3  # 1 / Σ gains; 0: no sample
    REST = 4  # T of a real passage that is not the row's own, where labels are [Q, K]; else 0
    IMPOSSIBLE = 5  # 1 where the score of a passage that would take part is −inf, else 0


class Moment(IntEnum):
    """Rows of the columns' moments, sums over samples."""

    SUM_P = 0
    SQUARES_P = 1  # Σ (P − mean)²
    SUM_T = 2
    SQUARES_T = 3


class Sum(IntEnum):
    """Columns of the row sums."""

    SQUARES = 0  # ‖E_P,i‖²
    ALONG_MEAN = 1  # ⟨E_P,i, μ_P⟩
    APART = 2  # ⟨P_i, μ_P − μ_T⟩


class Column(IntEnum):
    """Rows of what the backward knows of each column: means, and G_in = x_n + y_n (P_in − μ_P,n) − 2f (W E_T)_in."""

    MEAN_P = 0
    MEAN_T = 1
    X = 2
    Y = 3


class Passes(Protocol):
    """Of one call, with its arguments. Where these are rows of a larger batch, `first` is the first one's place in it:
    columns (first + i)·K … are row i's own."""

    def rows(self) -> tuple[Tensor, Tensor]:
        """Row state, [Q, 6], and in the form of blocks w, [Q, K], else [0, K]. A label that cannot be raises ValueError
        on the CPU, and elsewhere makes the row NaN."""
        ...

    def moments(self, row: Tensor) -> Tensor:
        """[4, N] as `Moment`. Mean first, then squares about it."""
        ...

    def products(
        self,
        row: Tensor,
        columns: Tensor,  # [2 or more, N]: μ_P, μ_T
        excess: Tensor,  # [N]: w of the whole batch; empty: targets are written out, no R is asked for
        flag: Tensor | None,  # [] bool on a GPU: T is no sum of blocks, see above
    ) -> tuple[Tensor, Tensor]:
        """Row sums, [Q, 3] as `Sum`, and R_ij = Σ_k P_i,jK+k w_jk, [Q, N / K] (or [Q, 0]); with the flag set
        ⟨P_i, E_T,j⟩ instead."""
        ...

    def tiles(self, row: Tensor, columns: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """P and E_T of columns begin … end, [Q, c] each, for targets that are written out."""
        ...

    def along(self, row: Tensor, columns: Tensor) -> Tensor:
        """⟨P_i, G_i⟩, [Q], of the gradient G_in = x_n + y_n (P_in − μ_n); `columns` [4, N] as `Column`. For the
        diagonal covariance."""
        ...

    def gradient(
        self,
        row: Tensor,
        columns: Tensor,  # [4, N] as `Column`
        along: Tensor,  # [Q]
        scale: Tensor,  # []
        out: Any,  # [Q, N], as scores: columns begin … end are written (wassrank/embeddings has another place)
        begin: int,
        end: int,
        turned: Turned | Tensor | None,
    ) -> None:
        """scale · P_in (x_n + y_n (P_in − μ_n) − turned_in − along_i). `turned` is what W E_T subtracts: nothing; a
        tile [Q, c]; or, in the form of blocks, its parts."""
        ...


class Turned(NamedTuple):
    """turned_in = everywhere_i + W_ij w_n, j the query that n belongs to, where n is real in the mask; with the flag
    set Σ_j W_ij E_T,jn."""

    W: Tensor  # [Q, N / K]
    everywhere: Tensor  # [Q]
    excess: Tensor  # [N]
    flag: Tensor | None
