"""The fused losses as torch operators: schema, fake, autograd. Kernels come from the native extension and Triton."""

from . import grade_wasserstein

__all__ = ["grade_wasserstein"]
