"""Graded losses for sentence-transformers' rerankers (`CrossEncoder`): lists of any lengths, packed, nothing padded.

    from wassrank.integrations.cross_encoder import WassersteinLoss

    loss = WassersteinLoss(model, target="linear")  # where ListNetLoss(model) was

A dataset's first column is the query, the second a list of documents, the label column a list of as many grades.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wassrank import modules

from .citations import SYCL
from .losses import Combined, InfoNCE, ListwiseKL, Wasserstein
from .needs import needs
from .options import check_one_number

with needs("sentence-transformers", "st"):
    from sentence_transformers.util import batch_to_device, fullname, import_from_string


class _Loss(nn.Module):
    """A loss of wassrank as this framework calls it.

    Args:
        model: the CrossEncoder, with one output.
        activation_fn: applied to its logits, a module or the full name of one's class. Identity unless given: the loss
            has a softmax.
        mini_batch_size: pairs in a forward. None: as many as the batch has queries; 0 or less: all at once.
        options: those of the wassrank loss: temperature, p, label_temperature, target, num_levels, …

    Requirements:
        1. A dataset with (query, [document_1, …, document_n]) and labels [grade_1, …, grade_n]: integers from 0 up, or
           floats (a teacher's scores). n may differ from row to row.

    Relations:
        As ListNetLoss it takes whole lists, and unlike it pads none. `ListwiseKLLoss` is ListNetLoss but for the
        labels' entropy, a constant.
    """

    core: ClassVar[type[modules._Loss]]
    wassrank: modules._Loss
    model: Any

    def __init__(
        self,
        model: nn.Module,
        activation_fn: nn.Module | str | None = None,
        mini_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.model = model
        given = import_from_string(activation_fn)() if isinstance(activation_fn, str) else activation_fn
        self.activation_fn: nn.Module = nn.Identity() if given is None else given
        self.mini_batch_size = mini_batch_size
        if "in_batch" in options:
            raise TypeError("a cross-encoder scores a query's own documents alone: in_batch has no meaning here")
        check_one_number(options)
        if getattr(model, "num_labels", 1) != 1:
            raise ValueError(
                f"{type(self).__name__} ranks by one score a document, this model has {model.num_labels} outputs: "
                f"CrossEncoder(…, num_labels=1)"
            )
        self.wassrank = type(self).core(**options)

    def forward(
        self,
        inputs: list[Any],  # [queries, their lists of documents]
        labels: list[Tensor],  # of each query, a grade a document
        prompt: str | None = None,
        task: str | None = None,
    ) -> Tensor:
        queries, documents = self._checked(inputs, labels)
        pairs = [(query, document) for query, own in zip(queries, documents, strict=True) for document in own]
        size = len(queries) if self.mini_batch_size is None else self.mini_batch_size
        scores = torch.cat(list(self._logits(pairs, size if size > 0 else len(pairs), prompt=prompt, task=task)))
        scores = self.activation_fn(scores if scores.dtype == torch.float64 else scores.float())
        ends = list(accumulate(len(own) for own in documents))
        offsets = torch.tensor([0, *ends], device=scores.device)
        loss: Tensor = self.wassrank(scores, torch.cat(labels).to(scores.device), offsets=offsets)
        return loss

    def _logits(self, pairs: list[tuple[str, str]], size: int, **given: str | None) -> Iterator[Tensor]:
        for begin in range(0, len(pairs), size):
            # Processes have different numbers of mini-batches: DistributedDataParallel hears of the last alone.
            quiet = isinstance(self.model, DistributedDataParallel) and begin + size < len(pairs)
            with self.model.no_sync() if quiet else nullcontext():
                tokens = batch_to_device(self.model.preprocess(pairs[begin : begin + size], **given), self.model.device)
                # A dict, in which, unlike a BatchEncoding, it finds which parameters were used.
                yield self.model(dict(tokens))["scores"].view(-1)

    def _checked(self, inputs: list[Any], labels: Any) -> tuple[list[str], list[list[str]]]:
        name = type(self).__name__
        if len(inputs) != 2:
            raise ValueError(
                f"{name} takes two columns, the query and its list of documents, the dataset has {len(inputs)} beside "
                f"the label: put a query's documents into one column, a list a row"
            )
        queries, documents = inputs
        if any(isinstance(own, str) for own in documents):
            raise ValueError(
                f"{name}: the second column holds a text a row, where a list of documents is needed to rank them"
            )
        if not isinstance(labels, list):
            raise ValueError(
                f"{name}: the label column holds {'nothing' if labels is None else 'one number'} a row: make it a list "
                f"of grades, one for each document of the row's list"
            )
        lengths, grades = [len(own) for own in documents], [len(own) for own in labels]
        if lengths != grades:
            raise ValueError(f"{name}: documents a query {lengths} and grades a query {grades} are not as many")
        if max(lengths) < 2:
            raise ValueError(
                f"{name}: no query of the batch has two documents, there is nothing to rank and the loss would be 0: "
                f"give queries more documents, or filter out those with one"
            )
        return queries, documents

    def get_config_dict(self) -> dict[str, Any]:
        """What made this loss, in plain values: WassersteinLoss(model, **config) makes it again."""
        return {
            "activation_fn": fullname(self.activation_fn),
            "mini_batch_size": self.mini_batch_size,
            **{
                name: value for name, value in self.wassrank.options.items() if value is not None and name != "in_batch"
            },
        }

    @property
    def citation(self) -> str:
        return SYCL


class WassersteinLoss(Wasserstein, _Loss): ...


class ListwiseKLLoss(ListwiseKL, _Loss): ...


class InfoNCELoss(InfoNCE, _Loss): ...


class CombinedLoss(Combined, _Loss): ...
