"""The public functions: what they accept, what they mean, what they refuse."""

from .combined_loss import combined_loss
from .gaussian_wasserstein import gaussian_wasserstein
from .grade_order import grade_order
from .grade_wasserstein import grade_wasserstein
from .info_nce import info_nce
from .listwise_kl import listwise_kl
from .target_mass import target_mass_on_graded

__all__ = [
    "combined_loss",
    "gaussian_wasserstein",
    "grade_order",
    "grade_wasserstein",
    "info_nce",
    "listwise_kl",
    "target_mass_on_graded",
]
