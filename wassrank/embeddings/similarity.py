"""What a score is made of: inner products of embeddings, normalised first where the similarity is the cosine.

With x̂ = x/‖x‖ (0 for a zero vector, which so has score 0 with everything and gradient 0) and D = ∂loss/∂x̂, the
normalisation's share of the gradient is ∂loss/∂x = (D − x̂⟨x̂, D⟩)/‖x‖. Scores are q̂ᵀp̂ and are divided by a temperature
t afterwards; so ∂loss/∂t = −(1/t) Σ_in S_in G_in with G = ∂loss/∂S, and Σ_n S_in G_in = ⟨q̂_i, ∂loss/∂q̂_i⟩: the
temperature's gradient needs no pass of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor


def prepared(x: Tensor, dtype: torch.dtype, cosine: bool) -> Tensor:
    """Embeddings as they are multiplied, of `dtype`; themselves where nothing is to be done."""
    x = x.to(dtype)
    return x * inverse_norm(x, dtype) if cosine else x


def returned(x: Tensor, gradient: Tensor, cosine: bool) -> Tensor:
    """Of the gradient for prepared(x) the one for x. `gradient` may be written over."""
    if not cosine:
        return gradient
    x = x.to(gradient.dtype)
    inverse = inverse_norm(x, x.dtype)
    unit = x * inverse
    along = (unit * gradient).sum(-1, keepdim=True)
    return gradient.addcmul_(unit, along, value=-1).mul_(inverse)


def inverse_norm(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[…, 1] of `dtype`; 0 for a zero vector."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
    return torch.where(norm == 0, 0.0, 1 / norm)


def hide(scores: Tensor, exclude: Tensor | None, row: int, column: int) -> None:
    """Makes −inf, in place, what `exclude` leaves out of a tile whose first score is that of (row, column)."""
    if exclude is None:
        return
    rows, columns = scores.shape
    if exclude.dtype == torch.bool:
        scores.masked_fill_(exclude[row : row + rows, column : column + columns], -torch.inf)
        return
    r, c = exclude[:, 0] - row, exclude[:, 1] - column
    here = (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
    if scores.is_cpu:
        scores[r[here], c[here]] = -torch.inf
        return
    # Without asking the device how many there are: those elsewhere go to the tile's first score and change nothing.
    value = torch.where(here, -torch.inf, torch.inf).to(scores.dtype)
    scores.view(-1).scatter_reduce_(0, torch.where(here, r * columns + c, 0), value, "amin")
