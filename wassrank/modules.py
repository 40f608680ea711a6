"""The losses as torch modules: a loss's options are given once, its scores and labels at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from wassrank import functional
from wassrank.processes.group import Shared


class _Loss(nn.Module):
    """A function of wassrank with its options held.

    Shape:
        scores [Q, N]; labels [Q, N], or [Q, K] with N = Q·K (query-major in-batch passages); mask as scores or labels;
        weight [Q]. With `offsets` [Q + 1], packed lists: scores, labels and mask [T]. Returns a scalar, or [Q] for
        reduction="none".

        `from_embeddings` takes queries [Q, d] and passages [N, d] in the place of scores, which then come tile by tile
        and are never stored.
    """

    function: Callable[..., Tensor]
    function_of_embeddings: Callable[..., Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        *,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        offsets: Tensor | None = None,
        **given: Any,  # replaces an option of the module for this call: target, positives, label_temperature, …
    ) -> Tensor:
        options = self._options(mask=mask, weight=weight, offsets=offsets, **given)
        loss: Tensor = type(self).function(scores, labels, **options)
        return loss

    def from_embeddings(
        self,
        queries: Tensor,
        passages: Tensor,
        labels: Tensor,
        *,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        exclude: Tensor | Sequence[tuple[int, int]] | None = None,
        **given: Any,  # as `forward`'s, and what only embeddings have: similarity, temperature, gather, group, tile
    ) -> Tensor:
        options = self._options(mask=mask, weight=weight, exclude=exclude, **given)
        loss: Tensor = type(self).function_of_embeddings(queries, passages, labels, **options)
        return loss

    def _options(self, **given: Any) -> dict[str, Any]:
        return self.options | {name: value for name, value in given.items() if value is not None}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class GradeWassersteinLoss(_Loss):
    """`wassrank.grade_wasserstein` with its options held; the function's docstring is the reference.

    Relations to other losses:
        Unlike InfoNCE and KL it knows that grade 2 in place of grade 3 is a smaller mistake than grade 0. Its gradient
        is P·(φ − ⟨P, φ⟩), proportional to P: passages the model is confident not to want move little.
    """

    function = staticmethod(functional.grade_wasserstein)
    function_of_embeddings = staticmethod(functional.grade_wasserstein_from_embeddings)

    def __init__(
        self,
        *,
        p: float = 1.0,
        temperature: float = 1.0,
        label_temperature: float | Tensor = 1.0,
        target: str = "auto",
        in_batch: float | None = 0,
        num_levels: int = 8,
        position: Sequence[float] | None = None,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__(
            p=p,
            temperature=temperature,
            label_temperature=label_temperature,
            target=target,
            in_batch=in_batch,
            num_levels=num_levels,
            position=position,
            reduction=reduction,
            backend=backend,
        )


class GaussianWassersteinLoss(_Loss):
    """`wassrank.gaussian_wasserstein` with its options held; the function's docstring is the reference.

    Relations to other losses:
        It compares statistics of the batch, not rows: it cannot tell queries apart, takes no weight and no reduction,
        and needs a model that already ranks to start from.
    """

    function = staticmethod(functional.gaussian_wasserstein)
    function_of_embeddings = staticmethod(functional.gaussian_wasserstein_from_embeddings)

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        label_temperature: float | Tensor = 1.0,
        target: str = "softmax",
        in_batch: float | None = 0,
        num_levels: int = 8,
        covariance: str = "full",
        eps: float = 0.0,
        gather: bool = False,
        group: Shared = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            temperature=temperature,
            label_temperature=label_temperature,
            target=target,
            in_batch=in_batch,
            num_levels=num_levels,
            covariance=covariance,
            eps=eps,
            gather=gather,
            group=group,
            backend=backend,
        )


class InfoNCELoss(_Loss):
    """`wassrank.info_nce` with its options held; the function's docstring is the reference.

    It knows two kinds of passage, positives (the best grade) and negatives; `negative_grade` leaves the own passages in
    between out.
    """

    function = staticmethod(functional.info_nce)
    function_of_embeddings = staticmethod(functional.info_nce_from_embeddings)

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        negative_grade: int | None = None,
        symmetric: bool = False,
        in_batch: int | None = 0,
        num_levels: int = 8,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__(
            temperature=temperature,
            negative_grade=negative_grade,
            symmetric=symmetric,
            in_batch=in_batch,
            num_levels=num_levels,
            reduction=reduction,
            backend=backend,
        )


class ListwiseKLLoss(_Loss):
    """`wassrank.listwise_kl` with its options held; the function's docstring is the reference.

    It asks for the target's probabilities passage by passage and knows no order among grades.
    """

    function = staticmethod(functional.listwise_kl)
    function_of_embeddings = staticmethod(functional.listwise_kl_from_embeddings)

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        label_temperature: float | Tensor = 1.0,
        target: str = "softmax",
        in_batch: float | None = 0,
        num_levels: int = 8,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__(
            temperature=temperature,
            label_temperature=label_temperature,
            target=target,
            in_batch=in_batch,
            num_levels=num_levels,
            reduction=reduction,
            backend=backend,
        )


class CombinedLoss(_Loss):
    """`wassrank.combined_loss` with its options held: a weighted sum of the three in one pass over the scores each way.

    For instance CombinedLoss(kl=0.1, p=2, temperature=0.05, target="linear"): the distance says which way, KL keeps a
    pull on relevant passages that have next to no probability.
    """

    function = staticmethod(functional.combined_loss)
    function_of_embeddings = staticmethod(functional.combined_loss_from_embeddings)

    def __init__(
        self,
        *,
        wasserstein: float = 1.0,
        info_nce: float = 0.0,
        kl: float = 0.0,
        p: float = 1.0,
        temperature: float = 1.0,
        label_temperature: float | Tensor = 1.0,
        target: str = "auto",
        negative_grade: int | None = None,
        in_batch: float | None = 0,
        num_levels: int = 8,
        position: Sequence[float] | None = None,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__(
            wasserstein=wasserstein,
            info_nce=info_nce,
            kl=kl,
            p=p,
            temperature=temperature,
            label_temperature=label_temperature,
            target=target,
            negative_grade=negative_grade,
            in_batch=in_batch,
            num_levels=num_levels,
            position=position,
            reduction=reduction,
            backend=backend,
        )
