"""The public functions: what they accept, what they mean, what they refuse."""

from .grade_wasserstein import grade_wasserstein

__all__ = ["grade_wasserstein"]
