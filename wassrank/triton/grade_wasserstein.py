"""Grade-axis Wasserstein's epilogue: sums by level → cost, and what of the gradient goes with e.

Formulas: wassrank/reference/transport.py; what an epilogue gives: level_losses.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .level_transport import level_transport


@triton.jit
def grade_wasserstein(
    masses: tl.tensor,  # [R, LEVELS] float64, Σ e of all passages
    Z: tl.tensor,  # [R] float64, their sum
    t: tl.tensor,  # [R, LEVELS] float64, the target's masses
    total: tl.tensor,  # [R] float64, their sum
    position: tl.tensor,  # pointer, or None
    num_levels: tl.tensor,
    p: tl.tensor,  # float64
    tie: tl.tensor,  # float64
    ORDER: tl.constexpr,
    LEVELS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Cost, [R]; c · Z, [R, LEVELS]: the potential, less its mean."""
    m = masses / Z[:, None]
    cost, phi = level_transport(m, t / total[:, None], position, num_levels, p, tie, ORDER, LEVELS)
    return cost, phi - tl.sum(m * phi, axis=1)[:, None]
