"""Each loss's mathematics, once, in plain torch: the tests' oracle, the "torch" backend, and what to read first."""

from .graded_loss import Terms, graded_loss

__all__ = ["Terms", "graded_loss"]
