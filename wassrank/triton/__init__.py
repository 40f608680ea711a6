"""Triton kernels, served by operators of the same names. Imported by an operator's first call
(wassrank/ops/registration.py): `import wassrank` does not need triton.
"""

from . import from_embeddings
from .gaussian_wasserstein import GaussianPasses
from .grade_order import grade_order
from .level_losses import backward as level_losses_backward
from .level_losses import forward as level_losses
from .sorted_losses import backward as sorted_losses_backward
from .sorted_losses import forward as sorted_losses
from .wasserstein_1d import forward as wasserstein_1d

__all__ = [
    "GaussianPasses",
    "from_embeddings",
    "grade_order",
    "level_losses",
    "level_losses_backward",
    "sorted_losses",
    "sorted_losses_backward",
    "wasserstein_1d",
]
