"""The losses as torch modules: a loss's options are given once, its scores and labels at every step."""

from __future__ import annotations

from torch import Tensor, nn

from wassrank import functional


class GradeWassersteinLoss(nn.Module):
    """`wassrank.grade_wasserstein` with its options held; the function's docstring is the reference.

    Shape:
        scores [Q, N]; labels, mask [Q, N], or [Q, K] with N = Q·K (query-major in-batch passages); weight [Q].
        Returns a scalar, or [Q] for reduction="none".

    Relations to other losses:
        Unlike InfoNCE and KL it knows that grade 2 in place of grade 3 is a smaller mistake than grade 0. Its gradient
        is P·(φ − ⟨P, φ⟩), proportional to P: passages the model is confident not to want move little.
    """

    def __init__(
        self,
        *,
        p: float = 1.0,
        temperature: float = 1.0,
        label_temperature: float = 1.0,
        target: str = "softmax",
        in_batch: int | None = 0,
        num_levels: int = 8,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.p = p
        self.temperature = temperature
        self.label_temperature = label_temperature
        self.target = target
        self.in_batch = in_batch
        self.num_levels = num_levels
        self.reduction = reduction
        self.backend = backend

    def forward(
        self,
        scores: Tensor,  # [Q, N]
        labels: Tensor,  # [Q, N] or [Q, K]
        *,
        mask: Tensor | None = None,  # the shape of scores or labels
        weight: Tensor | None = None,  # [Q]
        target: Tensor | None = None,  # replaces the module's target for this call
    ) -> Tensor:
        return functional.grade_wasserstein(
            scores,
            labels,
            p=self.p,
            temperature=self.temperature,
            label_temperature=self.label_temperature,
            target=self.target if target is None else target,
            mask=mask,
            weight=weight,
            in_batch=self.in_batch,
            num_levels=self.num_levels,
            reduction=self.reduction,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return (
            f"p={self.p}, temperature={self.temperature}, label_temperature={self.label_temperature}, "
            f"target={self.target!r}, in_batch={self.in_batch}, num_levels={self.num_levels}, "
            f"reduction={self.reduction!r}, backend={self.backend!r}"
        )
