"""Each loss's mathematics, once, in plain torch: the tests' oracle, the "torch" backend, and what to read first."""

from .grade_wasserstein import grade_wasserstein

__all__ = ["grade_wasserstein"]
