"""Each loss's mathematics, once, in plain torch: the tests' oracle, the "torch" backend, and what to read first."""

from .graded_loss import Terms, graded_loss
from .wasserstein_1d import monotone_plan, wasserstein_1d

__all__ = ["Terms", "graded_loss", "monotone_plan", "wasserstein_1d"]
