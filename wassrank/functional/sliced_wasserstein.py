"""`wassrank.sliced_wasserstein`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wassrank.reference.rows import compute_dtype

from . import checks
from .wasserstein_1d import wasserstein_1d


def sliced_wasserstein(
    x: Tensor,  # [..., n, d]
    y: Tensor,  # [..., m, d]
    n_projections: int = 50,
    p: float = 2,
    *,
    x_weights: Tensor | None = None,  # [..., n]
    y_weights: Tensor | None = None,  # [..., m]
    x_mask: Tensor | None = None,  # [..., n] bool
    y_mask: Tensor | None = None,  # [..., m] bool
    seed: int | None = None,
    generator: torch.Generator | None = None,
    projections: Tensor | None = None,  # [n_projections, d]
    max_sliced: bool = False,
    chunk: int | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Sliced Wasserstein distance between clouds of points: their projections on random lines, each pair of them
    compared by `wasserstein_1d`, and the mean over the lines,

    .. math:: \frac{1}{L}\sum_{l=1}^{L} W_p^p\big(\theta_l\cdot x,\; \theta_l\cdot y\big),\qquad
              \theta_l \text{ uniform on the unit sphere}

    (Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", 2015). The mean of powers is returned, as
    everything here returns powers: take ``loss ** (1 / p)`` for the distance, which is what POT's
    `sliced_wasserstein_distance` gives.

    Args:
        x, y: the clouds, float64, float32, float16 or bfloat16 (half types are projected in float32). Leading
            dimensions broadcast.
        n_projections: how many lines, L.
        p: order of the distance, any real ≥ 1.
        x_weights, y_weights: none negative, normalised over each cloud; None: all points weigh alike.
        x_mask, y_mask: True = the point takes part.
        seed: draws the same lines every time; without it (and without generator) they come from torch's global
            generator, other ones each call.
        generator: where lines are drawn from, on x's device.
        projections: the lines themselves, [L, d], taken as they are, of any length; for drawing them once, and under
            torch.compile, which traces no generator.
        max_sliced: the maximum over the L lines instead of the mean (Deshpande et al., "Max-Sliced Wasserstein Distance
            and its use for GANs", 2019, with lines drawn, not searched for). Its gradient is the best line's.
        chunk: how many lines to compare at a time. None: all L at once, which takes L projections of either cloud, and
            as much again for the gradient. With a number memory is that of so many lines and one gradient of each
            cloud (which is then taken in the forward, line by line), whatever L is; the result does not change but for
            rounding. For max_sliced there is no gradient but the best line's, and `chunk` bounds the search.
        backend: as for `wasserstein_1d`.

    Returns:
        Of the broadcast leading dimensions; float64 for float64 clouds, else float32. Differentiable with respect to
        clouds and weights, once; with backend="torch" and no chunk any number of times.

    Raises:
        TypeError, ValueError: as `wasserstein_1d`; clouds that are not [..., points, d] of one d, no line at all, a
            chunk < 1, more than one of seed, generator and projections.
    """
    for name, cloud in (("x", x), ("y", y)):
        if not isinstance(cloud, Tensor) or cloud.dtype not in checks.FLOATS:
            got = cloud.dtype if isinstance(cloud, Tensor) else type(cloud).__name__
            raise TypeError(f"{name} must be a float64, float32, float16 or bfloat16 tensor, got {got}")
    if x.dim() < 2 or y.dim() < 2 or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"clouds must be [..., points, d] of one d; got {tuple(x.shape)} and {tuple(y.shape)}")
    if sum(given is not None for given in (seed, generator, projections)) > 1:
        raise ValueError("seed, generator and projections each say which lines to take: pass one of them")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, the number of lines compared at a time; got {chunk}")
    checks.check_device("y", y, x)
    dtype = compute_dtype(torch.promote_types(x.dtype, y.dtype))
    if projections is None:
        projections = _draw(n_projections, x, dtype, seed, generator)
    elif projections.dim() != 2 or projections.shape[-1] != x.shape[-1]:
        raise ValueError(f"projections must be [lines, {x.shape[-1]}], got {tuple(projections.shape)}")
    if len(projections) == 0:
        raise ValueError("there must be at least one line to project on, got none")
    lines = projections.to(dtype)

    options: dict[str, Any] = {"p": p, "backend": backend}
    for name, mask in (("u_mask", x_mask), ("v_mask", y_mask)):
        options[name] = None if mask is None else mask[..., None, :]
    compare = functools.partial(_compare, options)
    leaves = (x.to(dtype), y.to(dtype), x_weights, y_weights)
    if max_sliced:
        best = _best_lines(compare, lines, chunk, *leaves)
        return compare(best[..., None, :], *leaves).squeeze(-1)
    if chunk is None or chunk >= len(lines):
        return compare(lines, *leaves).mean(-1)
    given = [t for t in (*leaves[2:], x_mask, y_mask) if t is not None]
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2], *(t.shape[:-1] for t in given))
    # Each pair's gradient by itself: what pairs share is summed by expand's backward.
    wide = [t.expand(*batch, *t.shape[-2:]) for t in leaves[:2]]
    wide_weights = [None if t is None else t.expand(*batch, t.shape[-1]) for t in leaves[2:]]
    mean: Tensor = _ByChunks.apply(compare, lines, chunk, *wide, *wide_weights)  # type: ignore[no-untyped-call]
    return mean


def _draw(
    n_projections: int, x: Tensor, dtype: torch.dtype, seed: int | None, generator: torch.Generator | None
) -> Tensor:
    if seed is not None:
        generator = torch.Generator(x.device).manual_seed(seed)
    drawn = torch.randn(n_projections, x.shape[-1], generator=generator, device=x.device, dtype=dtype)
    return torch.nn.functional.normalize(drawn, dim=-1)


def _compare(
    options: dict[str, Any],
    lines: Tensor,  # [L, d]; or one line a pair, [..., 1, d]
    x: Tensor,
    y: Tensor,
    x_weights: Tensor | None,
    y_weights: Tensor | None,
) -> Tensor:
    """[..., L]"""
    a, b = (None if w is None else w[..., None, :] for w in (x_weights, y_weights))
    return wasserstein_1d(lines @ x.mT, lines @ y.mT, a, b, **options)


@torch.no_grad()
def _best_lines(compare: Callable[..., Tensor], lines: Tensor, chunk: int | None, *leaves: Tensor | None) -> Tensor:
    """[..., d]: of each pair the line with the largest distance."""
    parts = lines.split(chunk or len(lines))
    distances = torch.cat([compare(part, *leaves) for part in parts], -1)
    return lines[distances.argmax(-1)]


class _ByChunks(torch.autograd.Function):
    """The mean over lines, with the gradient accumulated beside it, so that a chunk's projections can be let go."""

    @staticmethod
    def forward(ctx: Any, compare: Callable[..., Tensor], lines: Tensor, chunk: int, *inputs: Tensor | None) -> Tensor:
        leaves = [
            None if t is None else t.detach().requires_grad_(wanted)
            for t, wanted in zip(inputs, ctx.needs_input_grad[-len(inputs) :], strict=True)
        ]
        asking = [t for t in leaves if t is not None and t.requires_grad]
        totals = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in asking]
        shares = []
        for part in lines.split(chunk):
            with torch.enable_grad():
                share = compare(part, *leaves).sum(-1) / len(lines)
                gradients = torch.autograd.grad(share.sum(), asking) if asking else ()
            for total, gradient in zip(totals, gradients, strict=True):
                total += gradient
            shares.append(share.detach())
        ctx.save_for_backward(*totals)
        return torch.stack(shares).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor) -> Any:
        kept = iter(ctx.saved_tensors)
        gradients = []
        for wanted in ctx.needs_input_grad:
            if wanted:
                total = next(kept)
                gradients.append(total * grad_mean.reshape(*grad_mean.shape, *(1,) * (total.dim() - grad_mean.dim())))
            else:
                gradients.append(None)
        return tuple(gradients)
