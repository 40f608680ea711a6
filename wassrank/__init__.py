"""wassrank: fused loss kernels for training retrievers on graded relevance.

    loss = wassrank.grade_wasserstein(scores, labels)         # or wassrank.GradeWassersteinLoss()(scores, labels)

InfoNCE, listwise KL and weighted sums of all three take the same arguments: `info_nce`, `listwise_kl`, `combined_loss`.
So does `gaussian_wasserstein`, which compares statistics of the whole batch. For point sets of one's own there are
`wasserstein_1d`, on the line, and `sliced_wasserstein`, in any dimension.
`wassrank.resolve_backend(device)` tells which kernels run; the mathematics is in `wassrank.reference`.
"""

from wassrank._version import __version__
from wassrank.backends import resolve_backend
from wassrank.functional import (
    combined_loss,
    combined_loss_from_embeddings,
    gaussian_wasserstein,
    gaussian_wasserstein_from_embeddings,
    grade_order,
    grade_wasserstein,
    grade_wasserstein_from_embeddings,
    info_nce,
    info_nce_from_embeddings,
    listwise_kl,
    listwise_kl_from_embeddings,
    sliced_wasserstein,
    target_mass_on_graded,
    wasserstein_1d,
    wasserstein_1d_plan,
)
from wassrank.modules import (
    CombinedLoss,
    GaussianWassersteinLoss,
    GradeWassersteinLoss,
    InfoNCELoss,
    ListwiseKLLoss,
)

__all__ = [
    "CombinedLoss",
    "GaussianWassersteinLoss",
    "GradeWassersteinLoss",
    "InfoNCELoss",
    "ListwiseKLLoss",
    "__version__",
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
    "resolve_backend",
    "sliced_wasserstein",
    "target_mass_on_graded",
    "wasserstein_1d",
    "wasserstein_1d_plan",
]
