"""Each loss's mathematics, once, in plain torch: the oracle of the tests, the "torch" backend, and what to read first."""

from .grade_wasserstein import grade_wasserstein

__all__ = ["grade_wasserstein"]
