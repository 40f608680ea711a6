"""What an operator must move and compute at least, and what memory it needs, whichever fused backend runs it: what its
time is set against, the device's bandwidth and its peak. Each loss's formula stands beside its operators; this is what
they share. Shapes and dtypes are all that is looked at: meta tensors will do.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from wassrank.codes import EXCLUDED


@dataclass(frozen=True)
class Work:
    """Of one pass, or of several one after the other."""

    bytes: int  # read and written; each once a pass
    flops: int  # of the computing type; an exponential, a comparison and an addition count as one each
    extra_bytes: int  # allocated beyond inputs and results: what is kept between the passes, and temporaries

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.flops + other.flops, self.extra_bytes + other.extra_bytes)


def passages_read(scores: Tensor, labels: Tensor, in_batch: int) -> int:
    """Scores that take part, over all rows: those labels grade, and unless excluded other queries' too. A mask changes
    nothing: what it leaves out is only known once it has been read, beside the score."""
    return labels.numel() if in_batch == EXCLUDED else scores.numel()


def read_bytes(scores: Tensor, labels: Tensor, *others: Tensor | None, in_batch: int) -> int:
    """What reading every passage that takes part costs, each byte once. A tensor of `others` holds an element for each
    passage in each row, or for each labelled passage."""
    passages = passages_read(scores, labels, in_batch)
    return sum(min(t.numel(), passages) * t.element_size() for t in (scores, labels, *others) if t is not None)
