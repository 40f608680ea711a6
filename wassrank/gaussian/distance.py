"""The batch-Gaussian distance put together from a backend's passes and small algebra, without asking the device.

Forward: the rows' totals, the columns' moments, then the products of P with the targets, A [Q, Q], and its polar
factor W. Backward: one pass in which P is made again and the gradient written. With G = ∂loss/∂P, the softmax asks for
⟨P_i, G_i⟩ over the whole row before the first column can be written; the forward knows it already:

    ⟨P_i, G_i⟩ = 2f (⟨P_i, E_P,i⟩ − Σ_j W_ij ⟨P_i, E_T,j⟩) + (2/n) ⟨P_i, μ_P − μ_T⟩.

Rows may be shared out among processes (world.py): then Q counts the whole batch's, q this process's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wassrank.processes.world import Alone, World
from wassrank.reference.rows import compute_dtype

from . import algebra
from .algebra import Number, of_both
from .passes import Arguments, Column, Passes, Row, Turned
from .polar import nuclear_norm_and_factor

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
    row, own = world.checked(passes.rows)
    everyone, excess = world.rows(row), world.rows(own)
    moments = _merged(passes.moments(row), row, everyone, world)
    columns, numbers, flag = algebra.columns(everyone, moments, a.diagonal)
    if a.diagonal:
        distance = numbers[Number.DISTANCE].clone()
        along = passes.along(row, columns)
        W, everywhere = row.new_empty(0, len(everyone)), torch.zeros_like(along)
    else:
        sums, products = _products(passes, a, world, row, everyone, columns, numbers, excess, flag)
        A = world.rows(algebra.overlap(products, world.sum(products.sum(0)), row, numbers))
        norm, W = nuclear_norm_and_factor(A, numbers[Number.NOISE], a.eps, a.scores)
        W = W[first : first + len(row)] if len(W) != len(row) else W
        distance, W, along, everywhere = algebra.finish(norm, W, products, sums, everyone, numbers, a.eps)
    return distance.to(compute_dtype(a.scores.dtype)), Kept(row, excess, columns, along, W, everywhere, flag)


def backward(
    passes: Passes,
    a: Arguments,
    kept: Kept,
    grad_loss: Tensor,
    gradient: Any,  # where the passes write it: [q, N], as scores
    world: World = Alone(),  # noqa: B008
) -> None:
    scale = grad_loss.double() / a.temperature

    def write(begin: int, end: int, turned: Turned | Tensor | None) -> None:
        passes.gradient(kept.row, kept.columns, kept.along, scale, gradient, begin, end, turned)

    everything = 0, a.scores.shape[1]
    if a.diagonal:
        write(*everything, None)
    elif _in_blocks(a, kept.flag, world):
        write(*everything, Turned(kept.W, kept.everywhere, kept.excess.view(-1), _unknown(kept.flag)))
    else:
        for begin, end, _, E_T in _tiles(passes, a, world, kept.row, kept.columns, kept.W.shape[1]):
            write(begin, end, kept.W @ E_T)


def _merged(moments: Tensor, row: Tensor, everyone: Tensor, world: World) -> Tensor:
    """The whole batch's moments. The squares of several sets of samples about their common mean are those about each
    one's own and each one's distance from it."""
    if isinstance(world, Alone):
        return moments
    here, n = ((state[:, Row.INVERSE] != 0).sum(dtype=torch.float64) for state in (row, everyone))
    local, squares = of_both(moments)
    sums = world.sum(local.clone(memory_format=torch.contiguous_format))
    apart = local / here.clamp(min=1) - sums / n.clamp(min=1)
    squares = world.sum((squares + here * apart.square()).contiguous())
    return torch.stack([sums, squares], 1).view_as(moments)


def _products(
    passes: Passes,
    a: Arguments,
    world: World,
    row: Tensor,
    everyone: Tensor,
    columns: Tensor,
    numbers: Tensor,
    excess: Tensor,
    flag: Tensor,
) -> tuple[Tensor, Tensor]:
    """Row sums, and ⟨P_i, E_T,j⟩, [q, Q]."""
    if not _in_blocks(a, flag, world):
        sums, _ = passes.products(row, columns, excess.new_empty(0), None)
        products = row.new_zeros(len(row), len(everyone))
        for _, _, P, E_T in _tiles(passes, a, world, row, columns, len(everyone)):
            products.addmm_(P, E_T.T)
        return sums, products
    unknown = _unknown(flag)
    sums, R = passes.products(row, columns, excess.view(-1), unknown)
    products = algebra.centred(R, row, everyone, numbers)
    return sums, products if unknown is None else torch.where(unknown, R, products)


def _in_blocks(a: Arguments, flag: Tensor, world: World) -> bool:
    """Asks for the flag only where that costs nothing, or where it must be known."""
    if not a.blocks:
        return False
    known = flag.device.type == "cpu" or world.asks
    return not (known and bool(flag))


def _unknown(flag: Tensor) -> Tensor | None:
    """What kernels of the form of blocks are to look at."""
    return None if flag.device.type == "cpu" else flag


def _tiles(
    passes: Passes, a: Arguments, world: World, row: Tensor, columns: Tensor, Q: int
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """begin, end, P [q, c] and everybody's E_T [Q, c] of each tile of columns, the same tiles in every process."""
    N = a.scores.shape[1]
    width = max((CPU_TILE if a.scores.is_cpu else GPU_TILE) // max(Q, 1), 1)
    for begin in range(0, N, width):
        end = min(begin + width, N)
        P, E_T = passes.tiles(row, columns, begin, end)
        yield begin, end, P, world.rows(E_T)
