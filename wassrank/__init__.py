"""wassrank: fused loss kernels for training retrievers on graded relevance.

    loss = wassrank.grade_wasserstein(scores, labels)         # or wassrank.GradeWassersteinLoss()(scores, labels)

`wassrank.resolve_backend(device)` tells which kernels run; the mathematics is in `wassrank.reference`.
"""

from wassrank._version import __version__
from wassrank.backends import resolve_backend
from wassrank.functional import grade_wasserstein
from wassrank.modules import GradeWassersteinLoss

__all__ = ["GradeWassersteinLoss", "__version__", "grade_wasserstein", "resolve_backend"]
