"""The algebra between the passes, on [Q, Q] and [N]. C++ has the same for a small batch on the CPU, where it would take
longer than the passes (csrc/cpu/gaussian_small_forward.h).

`everyone` is the whole batch's row state [Q, 6]; `row` the part of it that this process has, [q, 6].
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from wassrank.reference.gaussian_wasserstein import ROUNDING

from .passes import Moment, Row, Sum


class Number(IntEnum):
    """What `columns` finds beside them."""

    SAMPLES = 0  # n, at least 1
    F = 1  # 1/(n − 1), and 1 for n = 1
    NOISE = 2  # singular values of A up to this are rounding
    DISTANCE = 3  # less 2 ‖A‖_*, where the covariance is whole


def columns(everyone: Tensor, moments: Tensor, diagonal: bool) -> tuple[Tensor, Tensor, Tensor]:
    """[4, N] as `Column`; [4] as `Number`; [] bool: some score of one that would take part is −inf. `moments` are the
    whole batch's."""
    n = (everyone[:, Row.INVERSE] != 0).sum(dtype=torch.float64).clamp(min=1)
    f = 1 / (n - 1).clamp(min=1)
    sums, squares = of_both(moments)
    means = sums / n
    apart = means[0] - means[1]
    distance = apart.dot(apart)
    x = apart * (2 / n)
    if diagonal:
        sigma = _deviations(means, squares, n, f)
        stretch = sigma[0] - sigma[1]
        distance = distance + stretch.dot(stretch)
        varies = sigma[0] != 0
        y = 2 * f * torch.where(varies, 1 - sigma[1] / torch.where(varies, sigma[0], 1.0), 0.0)
        noise = torch.zeros_like(f)
    else:
        y = (2 * f).expand_as(x)
        traces = squares.sum(1)
        norms = (traces + n * means.square().sum(1)).sqrt()  # of P and T
        spread = traces.sqrt()
        noise = ROUNDING * f * (norms[0] * spread[1] + spread[0] * norms[1])
        distance = distance + f * traces.sum()
    flag = (everyone[:, Row.IMPOSSIBLE] != 0).any()
    return torch.cat([means, torch.stack([x, y])]), torch.stack([n, f, noise, distance]), flag


def of_both(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and squares, [2, N] each, of P and of T."""
    sums, squares = moments.view(2, len(Moment) // 2, moments.shape[1]).unbind(1)
    return sums, squares


def _deviations(means: Tensor, squares: Tensor, n: Tensor, f: Tensor) -> Tensor:
    """σ, [2, N]; 0 where a column is constant but for rounding."""
    constant = squares <= ROUNDING**2 * (squares + n * means.square())
    return (f * squares).sqrt().masked_fill_(constant, 0.0)


def centred(R: Tensor, row: Tensor, everyone: Tensor, numbers: Tensor) -> Tensor:
    """⟨P_i, E_T,j⟩, [q, Q], in the form of blocks."""
    one = everyone[:, Row.INVERSE] != 0
    products = R - R.sum(1, keepdim=True) / numbers[Number.SAMPLES] + _centred_rest(everyone, numbers)
    return torch.where((row[:, Row.INVERSE, None] != 0) & one, products, 0.0)


def overlap(products: Tensor, total: Tensor, row: Tensor, numbers: Tensor) -> Tensor:
    """This process's rows of A, [q, Q], from ⟨P_i, E_T,j⟩ and its sum over all i, [Q]."""
    A = (products - total / numbers[Number.SAMPLES]) * numbers[Number.F]
    return torch.where(row[:, Row.INVERSE, None] != 0, A, 0.0)


def finish(
    norm: Tensor,  # []: Σ √(σ² + eps) of A's singular values
    W: Tensor,  # [q, Q]: these rows of its polar factor
    products: Tensor,  # [q, Q]
    sums: Tensor,  # [q, 3]
    everyone: Tensor,
    numbers: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The distance, []; 2f W; ⟨P_i, G_i⟩, [q]; what W E_T is of T's part that a row has everywhere, [q]."""
    n, f, _, distance = numbers.unbind()
    if eps:  # rows that are no samples have no singular value to be added to
        norm = norm - (everyone[:, Row.INVERSE] == 0).sum(dtype=torch.float64) * eps**0.5
    W = (W * (2 * f)).contiguous()
    along = 2 * f * (sums[:, Sum.SQUARES] + sums[:, Sum.ALONG_MEAN]) + 2 / n * sums[:, Sum.APART]
    along = along - (W * products).sum(1)
    return distance - 2 * norm, W, along, W @ _centred_rest(everyone, numbers)


def _centred_rest(everyone: Tensor, numbers: Tensor) -> Tensor:
    """b, [Q]: β less its mean."""
    rest = everyone[:, Row.REST]
    return torch.where(everyone[:, Row.INVERSE] != 0, rest - rest.sum() / numbers[Number.SAMPLES], 0.0)
