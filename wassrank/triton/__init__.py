"""Triton kernels, one module a loss, named as the operators they serve. Imported by an operator's first call
(wassrank/ops/registration.py): `import wassrank` does not need triton.
"""

from .grade_wasserstein import backward as grade_wasserstein_backward
from .grade_wasserstein import forward as grade_wasserstein

__all__ = ["grade_wasserstein", "grade_wasserstein_backward"]
