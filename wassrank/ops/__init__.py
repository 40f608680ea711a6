"""The fused losses as torch operators: schema, fake, autograd. Kernels come from the native extension and Triton."""

from . import (
    gaussian_wasserstein,
    gaussian_wasserstein_from_embeddings,
    graded_loss,
    level_losses,
    level_losses_from_embeddings,
    sorted_losses,
    torch_order,
    wasserstein_1d,
)

__all__ = [
    "gaussian_wasserstein",
    "gaussian_wasserstein_from_embeddings",
    "graded_loss",
    "level_losses",
    "level_losses_from_embeddings",
    "sorted_losses",
    "torch_order",
    "wasserstein_1d",
]
