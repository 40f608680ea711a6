"""Options as the numbers that the operators' schemas and the kernels know them by (csrc/common/rows.h has the same)."""

from __future__ import annotations

from enum import IntEnum


class Target(IntEnum):
    softmax = 0
    linear = 1
    exp2 = 2
    given = 3


class Reduction(IntEnum):
    mean = 0
    sum = 1
    none = 2


EXCLUDED = -1
"""`in_batch` for "leave other queries' passages out"."""
