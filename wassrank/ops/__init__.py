"""The fused losses as torch operators: schema, fake, autograd. Kernels come from the native extension and Triton."""

from .grade_wasserstein import grade_wasserstein

__all__ = ["grade_wasserstein"]
