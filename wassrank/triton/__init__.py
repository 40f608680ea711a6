"""Triton kernels, served by operators of the same names. Imported by an operator's first call
(wassrank/ops/registration.py): `import wassrank` does not need triton.
"""

from .level_losses import backward as level_losses_backward
from .level_losses import forward as level_losses

__all__ = ["level_losses", "level_losses_backward"]
