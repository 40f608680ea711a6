"""The batch-Gaussian distance put together from a backend's passes and small algebra, without asking the device.

Forward: the rows' totals, the columns' moments, then the products of P with the targets, A [Q, Q], and its polar
factor W. Backward: one pass in which P is made again and the gradient written. With G = ∂loss/∂P, the softmax asks for
⟨P_i, G_i⟩ over the whole row before the first column can be written; the forward knows it already:

    ⟨P_i, G_i⟩ = 2f (⟨P_i, E_P,i⟩ − Σ_j W_ij ⟨P_i, E_T,j⟩) + (2/n) ⟨P_i, μ_P − μ_T⟩.

Rows may be shared out among processes (world.py): then Q counts the whole batch's, q this process's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wassrank.reference.gaussian_wasserstein import ROUNDING
from wassrank.reference.rows import compute_dtype

from .passes import Arguments, Column, Moment, Passes, Row, Sum, Turned
from .polar import nuclear_norm_and_factor
from .world import Alone, World

CPU_TILE, GPU_TILE = 1 << 16, 1 << 23
"""Elements of a tile of targets that are written out: 512 KiB, so that a few stay in a core's L2 cache; 64 MiB."""


class Kept(NamedTuple):
    """What the backward needs beside the arguments."""

    row: Tensor  # [q, 6]
    excess: Tensor  # [Q, K]: w; [0, K] where the arguments are not of the form of blocks
    columns: Tensor  # [4, N]
    along: Tensor  # [q]: ⟨P_i, G_i⟩
    W: Tensor  # [q, Q]: 2f times the polar factor; [0, Q] for the diagonal covariance
    everywhere: Tensor  # [q]: 2f W b
    flag: Tensor  # [] bool: some score of one that would take part is −inf


def kept_shapes(a: Arguments) -> tuple[tuple[int, ...], ...]:
    """Of a process that has the whole batch."""
    (Q, N), K = a.scores.shape, a.labels.shape[1]
    return (Q, len(Row)), (Q if a.blocks else 0, K), (len(Column), N), (Q,), (0 if a.diagonal else Q, Q), (Q,), ()


def forward(passes: Passes, a: Arguments, world: World = Alone()) -> tuple[Tensor, Kept]:  # noqa: B008
    first = world.first
    row, own = world.checked(lambda: passes.rows(a, first))
    excess, flag = world.rows(own), world.any((row[:, Row.IMPOSSIBLE] != 0).any())
    one = row[:, Row.INVERSE] != 0
    samples = Samples.of(world.rows(one))
    means, squares = _merged(passes.moments(a, first, row), one, samples, world)
    n, f = samples.n, samples.f
    apart = means[0] - means[1]
    distance = apart.dot(apart)
    x = apart * (2 / n)
    if a.diagonal:
        sigma = _deviations(means, squares, samples)
        stretch = sigma[0] - sigma[1]
        distance = distance + stretch.dot(stretch)
        varies = sigma[0] != 0
        y = 2 * f * torch.where(varies, 1 - sigma[1] / torch.where(varies, sigma[0], 1.0), 0.0)
        columns = torch.cat([means, torch.stack([x, y])])
        along = passes.along(a, first, row, columns)
        W, everywhere = row.new_empty(0, len(samples.one)), torch.zeros_like(along)
    else:
        columns = torch.cat([means, torch.stack([x, (2 * f).expand_as(x)])])
        sums, products = _products(passes, a, world, row, columns, excess, flag, samples)
        A = products - world.sum(products.sum(0)) / n
        A = world.rows(torch.where(one[:, None], A, 0.0) * f)
        traces = squares.sum(1)
        norms = (traces + n * means.square().sum(1)).sqrt()  # of P and T
        centred = traces.sqrt()
        noise = ROUNDING * f * (norms[0] * centred[1] + centred[0] * norms[1])
        overlap, W = nuclear_norm_and_factor(A, noise, a.eps, a.scores)
        if a.eps:  # rows that are no samples have no singular value to be added to
            overlap = overlap - (~samples.one).sum(dtype=torch.float64) * a.eps**0.5
        distance = distance + f * traces.sum() - 2 * overlap
        W = W[first : first + len(row)] * (2 * f)
        along = 2 * f * (sums[:, Sum.SQUARES] + sums[:, Sum.ALONG_MEAN]) + 2 / n * sums[:, Sum.APART]
        along = along - (W * products).sum(1)
        everywhere = W @ _centred_rest(world.rows(row[:, Row.REST].contiguous()), samples)
    return distance.to(compute_dtype(a.scores.dtype)), Kept(row, excess, columns, along, W, everywhere, flag)


def backward(passes: Passes, a: Arguments, kept: Kept, grad_loss: Tensor, world: World = Alone()) -> Tensor:  # noqa: B008
    gradient = torch.empty_like(a.scores)
    scale = grad_loss.double() / a.temperature

    def write(begin: int, end: int, turned: Turned | Tensor | None) -> None:
        passes.gradient(a, world.first, kept.row, kept.columns, kept.along, scale, gradient, begin, end, turned)

    everything = 0, a.scores.shape[1]
    if a.diagonal:
        write(*everything, None)
    elif _in_blocks(a, kept.flag, world):
        write(*everything, Turned(kept.W, kept.everywhere, kept.excess.view(-1), _unknown(kept.flag)))
    else:
        for begin, end, _, E_T in _tiles(passes, a, world, kept.row, kept.columns):
            write(begin, end, kept.W @ E_T)
    return gradient


@dataclass(frozen=True)
class Samples:
    """Which rows of the batch are samples, and the weights that follow."""

    one: Tensor  # [Q] bool
    n: Tensor  # [] float64, at least 1
    f: Tensor  # []: 1/(n − 1), and 1 for n = 1

    @staticmethod
    def of(one: Tensor) -> Samples:
        n = one.sum(dtype=torch.float64)
        return Samples(one, n.clamp(min=1), 1 / (n - 1).clamp(min=1))


def _merged(moments: Tensor, here: Tensor, samples: Samples, world: World) -> tuple[Tensor, Tensor]:
    """Means and sums of squares about them, [2, N] each, of P and of T, over the whole batch. The squares of several
    sets of samples about their common mean are those about each one's own and each one's distance from it."""
    sums = moments[[Moment.SUM_P, Moment.SUM_T]]
    squares = moments[[Moment.SQUARES_P, Moment.SQUARES_T]]
    if isinstance(world, Alone):
        return sums / samples.n, squares
    count = here.sum(dtype=torch.float64)
    means = world.sum(sums.clone()) / samples.n
    return means, world.sum(squares + count * (sums / count.clamp(min=1) - means).square())


def _deviations(means: Tensor, squares: Tensor, samples: Samples) -> Tensor:
    """σ, [2, N]; 0 where a column is constant but for rounding."""
    constant = squares <= ROUNDING**2 * (squares + samples.n * means.square())
    return (samples.f * squares).sqrt().masked_fill_(constant, 0.0)


def _products(
    passes: Passes,
    a: Arguments,
    world: World,
    row: Tensor,
    columns: Tensor,
    excess: Tensor,
    flag: Tensor,
    samples: Samples,
) -> tuple[Tensor, Tensor]:
    """Row sums, and ⟨P_i, E_T,j⟩, [q, Q]."""
    if not _in_blocks(a, flag, world):
        sums, _ = passes.products(a, world.first, row, columns, excess.new_empty(0), None)
        products = row.new_zeros(len(row), len(samples.one))
        for _, _, P, E_T in _tiles(passes, a, world, row, columns):
            products.addmm_(P, E_T.T)
        return sums, products
    sums, R = passes.products(a, world.first, row, columns, excess.view(-1), _unknown(flag))
    b = _centred_rest(world.rows(row[:, Row.REST].contiguous()), samples)
    products = R - R.sum(1, keepdim=True) / samples.n + b
    products = torch.where((row[:, Row.INVERSE, None] != 0) & samples.one, products, 0.0)
    unknown = _unknown(flag)
    return sums, products if unknown is None else torch.where(unknown, R, products)


def _centred_rest(rest: Tensor, samples: Samples) -> Tensor:
    """b, [Q]: β less its mean."""
    return torch.where(samples.one, rest - rest.sum() / samples.n, 0.0)


def _in_blocks(a: Arguments, flag: Tensor, world: World) -> bool:
    """Asks for the flag only where that costs nothing, or where several processes must agree."""
    if not a.blocks:
        return False
    known = flag.device.type == "cpu" or not isinstance(world, Alone)
    return not (known and bool(flag))


def _unknown(flag: Tensor) -> Tensor | None:
    """What kernels of the form of blocks are to look at."""
    return None if flag.device.type == "cpu" else flag


def _tiles(
    passes: Passes, a: Arguments, world: World, row: Tensor, columns: Tensor
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """begin, end, P [q, c] and everybody's E_T [Q, c] of each tile of columns."""
    N = a.scores.shape[1]
    width = max((CPU_TILE if a.scores.is_cpu else GPU_TILE) // max(len(row), 1), 1)
    for begin in range(0, N, width):
        end = min(begin + width, N)
        P, E_T = passes.tiles(a, world.first, row, columns, begin, end)
        yield begin, end, P, world.rows(E_T)
