"""The fused losses as torch operators: schema, fake, autograd; kernels come from the native extension and from Triton."""

from .grade_wasserstein import grade_wasserstein

__all__ = ["grade_wasserstein"]
