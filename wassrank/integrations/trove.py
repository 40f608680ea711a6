"""Graded losses for Trove (`ir-trove`): importing this module registers them.

    import wassrank.integrations.trove

    args = ModelArguments(…, loss="wassrank", temperature=0.02)      # or "wassrank_ws2", …; --loss wassrank

Trove's layout is wassrank's: logits [Q, Q·K] query-major, labels [Q, K]. In several processes it gathers embeddings and
labels of all, detached but for a process's own, so that every process has the whole batch's loss and its part of the
gradients, and its trainer multiplies by the number of processes. Nothing is gathered or multiplied here.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from wassrank import modules
from wassrank.functional.checks import check_positive

from .losses import Combined, GaussianWasserstein, InfoNCE, ListwiseKL, Wasserstein
from .needs import needs
from .options import check_one_number

with needs("Trove (ir-trove)", "trove"):
    from trove import ModelArguments
    from trove.modeling import RetrievalLoss


class _Loss(RetrievalLoss):  # type: ignore[misc]  # Trove carries no types
    """A loss of wassrank as Trove calls it.

    Args:
        args: the temperature is `args.temperature`.
        dtype, device: Trove passes them; there is nothing to place.
        options: those of the wassrank loss, given to Trove as `loss_extra_kwargs`: p, label_temperature, target,
            in_batch, num_levels, …
    """

    core: ClassVar[type[modules._Loss]]

    def __init__(self, args: ModelArguments, dtype: Any = None, device: Any = None, **options: Any) -> None:
        super().__init__()
        if "temperature" in options:
            raise ValueError(
                f"temperature is given twice, in loss_extra_kwargs ({options['temperature']}) and in ModelArguments "
                f"({args.temperature}): pass it in ModelArguments alone, --temperature"
            )
        if args.temperature_learnable:
            raise ValueError(
                "--temperature_learnable: these losses give the temperature no gradient (and Trove does not save it); "
                "pass a number, --temperature"
            )
        check_positive("ModelArguments.temperature", args.temperature, "logits are divided by it")
        if "gather" in options:
            raise ValueError("gather: Trove's retriever has gathered all processes' embeddings already")
        check_one_number(options)
        self.wassrank = type(self).core(temperature=float(args.temperature), **options)

    def forward(
        self,
        logits: Tensor,  # [Q, Q·K], of all processes
        label: Tensor | None = None,  # [Q, K]
        **unused: Any,  # what else a batch holds: Trove hands it on to every loss
    ) -> Tensor:
        if label is None:
            raise ValueError(
                f"{type(self).__name__} needs graded labels and the batch has none: train on a MultiLevelDataset"
            )
        Q, N = logits.shape
        if label.dim() != 2 or len(label) != Q or label.shape[1] * Q != N:
            raise ValueError(
                f"labels {tuple(label.shape)} do not fit logits [{Q}, {N}]: there must be [{Q}, {N // max(Q, 1)}], a "
                f"grade a passage of each query; does every query have group_size passages?"
            )
        if label.shape[1] == 1 and self.wassrank.options["in_batch"] is None:
            raise ValueError("one passage a query (group_size=1) and in_batch=None leave nothing to rank it against")
        loss: Tensor = self.wassrank(logits, label)
        return loss


class GradeWassersteinLoss(Wasserstein, _Loss):
    _alias = "wassrank"


class GaussianWassersteinLoss(GaussianWasserstein, _Loss):
    _alias = "wassrank_ws2"


class ListwiseKLLoss(ListwiseKL, _Loss):
    _alias = "wassrank_kl"


class GradedInfoNCELoss(InfoNCE, _Loss):  # Trove has an InfoNCELoss, for which the first passage is the positive
    _alias = "wassrank_nce"


class CombinedLoss(Combined, _Loss):
    _alias = "wassrank_combined"
