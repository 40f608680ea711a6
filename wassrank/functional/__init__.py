"""The public functions: what they accept, what they mean, what they refuse."""

from .combined_loss import combined_loss
from .from_embeddings import (
    combined_loss_from_embeddings,
    gaussian_wasserstein_from_embeddings,
    grade_wasserstein_from_embeddings,
    info_nce_from_embeddings,
    listwise_kl_from_embeddings,
)
from .gaussian_wasserstein import gaussian_wasserstein
from .grade_order import grade_order
from .grade_wasserstein import grade_wasserstein
from .info_nce import info_nce
from .listwise_kl import listwise_kl
from .sliced_wasserstein import sliced_wasserstein
from .target_mass import target_mass_on_graded
from .wasserstein_1d import Plan, wasserstein_1d, wasserstein_1d_plan

__all__ = [
    "Plan",
    "combined_loss",
    "combined_loss_from_embeddings",
    "gaussian_wasserstein",
    "gaussian_wasserstein_from_embeddings",
    "grade_order",
    "grade_wasserstein",
    "grade_wasserstein_from_embeddings",
    "info_nce",
    "info_nce_from_embeddings",
    "listwise_kl",
    "listwise_kl_from_embeddings",
    "sliced_wasserstein",
    "target_mass_on_graded",
    "wasserstein_1d",
    "wasserstein_1d_plan",
]
