"""Listwise KL's epilogues: sums by level → cost, and what of the gradient goes with e, with the passage and with T.

    KL(T ‖ P) = log Z − Σ T_n x_n / temperature + Σ T_n log T_n        (wassrank/reference/listwise_kl.py)

What an epilogue gives: level_losses.py. Both have c = 1/Z at every level.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def listwise_kl(
    counts: tl.tensor,  # [R, LEVELS] float64, of all passages
    logits: tl.tensor,  # [R, LEVELS] float64, Σ x
    Z: tl.tensor,  # [R] float64
    gains: tl.tensor,  # [R, LEVELS] float64, what one passage of a level is asked for
    total: tl.tensor,  # [R] float64, Σ count · gain
    inverse_temperature: tl.tensor,  # float64
) -> tuple[tl.tensor, tl.tensor]:
    """Cost, [R]; b, [R, LEVELS]."""
    T = gains / total[:, None]
    entropy = counts * T * tl.log(tl.where(T > 0, T, 1.0))
    return tl.log(Z) + tl.sum(entropy - T * logits * inverse_temperature, axis=1), -T


@triton.jit
def listwise_kl_given(
    Z: tl.tensor,  # [R] float64
    total: tl.tensor,  # [R] float64, Σ T
    asked: tl.tensor,  # [R] float64, Σ T x
    entropy: tl.tensor,  # [R] float64, Σ T log T
    inverse_temperature: tl.tensor,  # float64
) -> tuple[tl.tensor, tl.tensor]:
    """Cost, [R]; f, [R]."""
    return tl.log(Z) + (entropy - asked * inverse_temperature) / total - tl.log(total), -1 / total
