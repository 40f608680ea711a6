"""Gaussian 2-Wasserstein over the batch on the CPU; formulas in wassrank/reference/gaussian_wasserstein.py.

Forward: each row's maximum and total, then one pass over tiles of columns, in which P is made, centred, and its
products with the targets are added up: A [Q, Q]; then A's singular values. Kept: five numbers a row and the polar
factor W. Backward: one pass in which P is made again and the gradient written. With G = ∂loss/∂P, the softmax asks for
⟨P_i, G_i⟩ over the whole row before the first column can be written; the forward knows it already:

    ⟨P_i, G_i⟩ = 2f (⟨P_i, E_P,i⟩ − Σ_j W_ij ⟨P_i, E_T,j⟩) + (2/n) ⟨P_i, μ_P − μ_T⟩.

All in float64, whatever the scores are in: near P = T the distance is a small difference of large traces. With scores
within 1e-3 of the labels, Q = 256 and K = 4, float32 throughout has the loss off by 7 % and its gradient by 2e-4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wassrank.reference.gaussian_wasserstein import ROUNDING
from wassrank.reference.nuclear_norm import norm_and_polar_factor
from wassrank.reference.rows import compute_dtype

from .columns import Columns
from .split_svd import split_svd
from .targets import Asked, OwnBlocks, Targets, WrittenOut

TILE = 1 << 16
"""Elements of a tile of float64 (512 KiB): a few of them stay in a core's L2 cache."""


def gaussian_wasserstein(
    scores: Tensor,  # [Q, N]
    labels: Tensor,  # [Q, N] or [Q, K] with N = Q·K
    target: Tensor | None,  # [Q, N] or [Q, K]
    mask: Tensor | None,  # [Q, N] or [N]
    label_temperatures: Tensor | None,  # [Q], in place of label_temperature
    target_kind: int,
    in_batch: float | None,
    num_levels: int | None,  # None: labels are floats
    temperature: float,
    label_temperature: float,
    diagonal: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`wassrank::gaussian_wasserstein`."""
    columns = _columns(scores, labels, mask, in_batch, temperature)
    asked = Asked(labels, target, target_kind, in_batch, num_levels, _per_row(label_temperatures, label_temperature))
    blocks = columns.mask is None or columns.mask.dim() == 1
    blocks &= labels.shape != scores.shape and (target is None or target.shape == labels.shape)
    blocks = blocks and not columns.hold_impossible()
    targets = OwnBlocks(asked, columns) if blocks else WrittenOut(asked, columns)
    top, total, weights = _row_totals(columns)
    rows = Rows(columns, top, torch.where((total != 0) & (targets.mass != 0), 1 / total, 0.0), weights)
    targets.normalise(rows.sample, rows.n)

    gather = _diagonal if diagonal else _full
    distance, along, W = gather(rows, targets, eps)
    kept = torch.cat([torch.stack([top, rows.inverse, along], 1), targets.kept], 1)
    w = targets.w if isinstance(targets, OwnBlocks) else torch.zeros(own_shape(scores, labels), dtype=torch.float64)
    return distance.to(compute_dtype(scores.dtype)), kept, w, W, torch.tensor(blocks)


def own_shape(scores: Tensor, labels: Tensor) -> tuple[int, int]:
    """Of what is kept of targets that are not written out."""
    Q, K = labels.shape
    return Q, 0 if labels.shape == scores.shape else K


def _full(rows: Rows, targets: Targets, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The distance; ⟨P_i, G_i⟩, [Q]; W, [Q, Q]."""
    Q, n, f = len(rows.top), rows.n, rows.f
    sums = rows.top.new_zeros(Q, Q)
    means, trace_T, square_P, square_T = rows.top.new_zeros(4).unbind()
    squares, own, apart = rows.top.new_zeros(3, Q).unbind()
    for at in rows.columns.tiles():
        P, mean = rows.predictions(at)
        tile, E = targets.tile(at), rows.centred(P, mean)
        difference = mean - tile.mean
        means += difference.dot(difference)
        square_P += n * mean.dot(mean)
        square_T += n * tile.mean.dot(tile.mean)
        trace_T += tile.squares.sum()
        tile.add_products(P, sums)
        apart.addmv_(P, difference)
        own.addmv_(E, mean)  # ⟨P_i, E_i⟩ = ‖E_i‖² + ⟨μ, E_i⟩
        squares += E.square_().sum(1)
    products, trace_P = targets.products(sums), squares.sum()
    A = products - products.sum(0) / n
    if not rows.all_samples:
        A.masked_fill_(~rows.sample[:, None], 0.0)
    noise = ROUNDING * f * (((square_P + trace_P) * trace_T).sqrt() + (trace_P * (square_T + trace_T)).sqrt())
    overlap, W = norm_and_polar_factor(split_svd(A.mul_(f), noise), noise, eps)
    if eps and not rows.all_samples:
        overlap = overlap - (~rows.sample).sum(dtype=torch.float64) * eps**0.5
    own += squares - (W * products).sum(1)
    return means + f * (trace_P + trace_T) - 2 * overlap, 2 * f * own + 2 / n * apart, W


def _diagonal(rows: Rows, targets: Targets, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """As `_full`, with no W."""
    Q, n, f = len(rows.top), rows.n, rows.f
    distance = rows.top.new_zeros(())
    along = rows.top.new_zeros(Q)
    for at in rows.columns.tiles():
        P, mean = rows.predictions(at)
        tile, E = targets.tile(at), rows.centred(P, mean)
        sigma_P, sigma_T = rows.deviation(E.square().sum(0), mean), rows.deviation(tile.squares, tile.mean)
        difference, spread = mean - tile.mean, sigma_P - sigma_T
        distance += difference.dot(difference) + spread.dot(spread)
        along.addmv_(P, difference, alpha=2 / n)
        along.addmv_(E.mul_(P), _stretch(sigma_P, sigma_T), alpha=2 * f)
    return distance, along, rows.top.new_zeros(0, Q)


def gaussian_wasserstein_backward(
    grad_loss: Tensor,  # []
    scores: Tensor,
    labels: Tensor,
    target: Tensor | None,
    mask: Tensor | None,
    label_temperatures: Tensor | None,
    kept: Tensor,  # [Q, 5]: the maximum, 1 / total, ⟨P, G⟩, and what the targets keep
    w: Tensor,  # [Q, K]; [Q, 0] for labels [Q, N]
    W: Tensor,  # [Q, Q]; [0, Q] for the diagonal covariance
    blocks: Tensor,  # [] bool: the targets were not written out
    target_kind: int,
    in_batch: float | None,
    num_levels: int | None,
    temperature: float,
    label_temperature: float,
    diagonal: bool,
) -> Tensor:
    """`wassrank::gaussian_wasserstein_backward`."""
    columns = _columns(scores, labels, mask, in_batch, temperature)
    rows = Rows(columns, kept[:, 0], kept[:, 1])
    targets: Targets
    if blocks:
        targets = OwnBlocks.from_kept(columns, w, kept[:, 3:], rows.sample, rows.n)
    else:
        per_row = _per_row(label_temperatures, label_temperature)
        asked = Asked(labels, target, target_kind, in_batch, num_levels, per_row)
        targets = WrittenOut.from_kept(asked, columns, kept[:, 3:], rows.sample, rows.n)
    scale = grad_loss.double() / temperature
    along, W = kept[:, 2:3] * scale, W * (2 * rows.f * scale)
    gradient = torch.empty_like(scores)
    for at in columns.tiles():
        P, mean = rows.predictions(at)
        tile = targets.tile(at)
        if diagonal:
            E = rows.centred(P, mean)
            sigma_P, sigma_T = rows.deviation(E.square().sum(0), mean), rows.deviation(tile.squares, tile.mean)
            G = E.mul_(2 * rows.f * scale * _stretch(sigma_P, sigma_T))
        else:
            G = P.sub(mean).mul_(2 * rows.f * scale).sub_(tile.rotated(W))
        G.add_(2 / rows.n * scale * (mean - tile.mean)).sub_(along)
        gradient[:, at] = G.mul_(P)
    return gradient


class Rows:
    """P, of which the rows that are no samples are 0."""

    def __init__(
        self,
        columns: Columns,
        top: Tensor,  # [Q]
        inverse: Tensor,  # [Q]: 1 / total; 0: no sample
        weights: Tensor | None = None,  # [Q, N], where they are there already; overwritten
    ) -> None:
        self.columns, self.top, self.inverse, self.weights = columns, top, inverse, weights
        self.sample = inverse != 0
        samples = int(self.sample.sum())
        self.all_samples = samples == len(top)
        self.n = max(samples, 1)
        self.f = 1 / max(samples - 1, 1)

    def predictions(self, at: slice) -> tuple[Tensor, Tensor]:
        """P [Q, c] and μ_P [c] of a tile."""
        P = self.columns.weights(at, self.top) if self.weights is None else self.weights
        P.mul_(self.inverse[:, None])
        if not self.all_samples:
            P.masked_fill_(~self.sample[:, None], 0.0)
        return P, P.sum(0).mul_(1 / self.n)

    def centred(self, P: Tensor, mean: Tensor) -> Tensor:
        """E_P of a tile."""
        E = P - mean
        return E if self.all_samples else E.masked_fill_(~self.sample[:, None], 0.0)

    def deviation(self, squares: Tensor, mean: Tensor) -> Tensor:
        """σ of columns [c] from Σ E² and μ; 0 where a column is constant but for rounding."""
        constant = squares <= ROUNDING**2 * (squares + self.n * mean.square())
        return (self.f * squares).sqrt().masked_fill_(constant, 0.0)


def _row_totals(columns: Columns) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of each row the maximum and the sum of exponentials, [Q]; and these, [Q, N], where they are but one tile."""
    top = columns.maximum()
    tiles = list(columns.tiles())
    if len(tiles) == 1:
        weights = columns.weights(tiles[0], top)
        return top, weights.sum(1), weights
    total = torch.zeros_like(top)
    for tile in tiles:
        total += columns.weights(tile, top).sum(1)
    return top, total, None


def _stretch(sigma_P: Tensor, sigma_T: Tensor) -> Tensor:
    """1 − σ_T/σ_P, which E_P is multiplied by in the gradient; 0 where P does not vary."""
    varies = sigma_P != 0
    return torch.where(varies, 1 - sigma_T / torch.where(varies, sigma_P, 1.0), 0.0)


def _per_row(label_temperatures: Tensor | None, label_temperature: float) -> float | Tensor:
    return label_temperature if label_temperatures is None else label_temperatures.double()[:, None]


def _columns(
    scores: Tensor, labels: Tensor, mask: Tensor | None, in_batch: float | None, temperature: float
) -> Columns:
    (Q, N), K = scores.shape, labels.shape[1]
    width = max(TILE // max(Q, 1), 1)
    if K != N:  # whole blocks
        width = max(width // max(K, 1), 1) * max(K, 1)
    return Columns(scores, mask, K if K != N and in_batch is None else None, temperature, width)
