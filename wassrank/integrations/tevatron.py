"""Graded losses for Tevatron: its trainer with the loss in `compute_loss`, and its collator with the grades.

    from wassrank.integrations.tevatron import GradedCollator, GradedTrainer

    trainer = GradedTrainer(graded_loss=wassrank.GradeWassersteinLoss(target="linear"), model=model, …)

Tevatron's scores are wassrank's, [Q, Q·K] query-major. In several processes its encoder gathers embeddings, detached
but for a process's own, so that every process has the whole batch's loss and its part of the gradients, of which
DistributedDataParallel takes the mean: the loss is multiplied by the number of processes; the trainer divides what it
reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
import torch.distributed as dist

from wassrank.modules import _Loss
from wassrank.processes.group import everyones

from .needs import needs
from .options import check_one_number

with needs("Tevatron", "tevatron"):
    from tevatron.retriever.collator import TrainCollator
    from tevatron.retriever.trainer import TevatronTrainer


class GradedCollator(TrainCollator):  # type: ignore[misc]  # Tevatron carries no types
    """TrainCollator's queries and passages, and grades [Q, K].

    A feature is (query, passages, grades), as Tevatron's DistilTrainDataset makes it from passages that have a "score".
    """

    def __call__(self, features: Sequence[tuple[Any, Sequence[Any], Sequence[float]]]) -> tuple[Any, Any, torch.Tensor]:
        for i, feature in enumerate(features):
            if len(feature) < 3:
                raise ValueError(
                    f"feature {i} of the batch has no grades: take DistilTrainDataset, and give passages a 'score'"
                )
            _, passages, grades = feature
            if not all(isinstance(grade, Real) for grade in grades):
                raise ValueError(f"feature {i} of the batch has a passage without 'score', its grade: {grades}")
            if len(grades) != len(passages) or len(passages) != len(features[0][1]):
                raise ValueError(
                    f"feature {i} of the batch has {len(passages)} passages and {len(grades)} grades, the first has "
                    f"{len(features[0][1])} passages: Tevatron's scores need train_group_size of both for every query"
                )
        queries, passages = super().__call__([feature[:2] for feature in features])
        return queries, passages, torch.tensor([list(grades) for _, _, grades in features])


class GradedTrainer(TevatronTrainer):  # type: ignore[misc]
    """TevatronTrainer with a graded loss.

    Args:
        graded_loss: a loss of wassrank. Its temperature is the model's (ModelArguments.temperature), unless that is 1.
        The others: as TevatronTrainer's; `data_collator` is a GradedCollator.
    """

    def __init__(self, *args: Any, graded_loss: _Loss, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.graded_loss = graded_loss
        of_model, of_loss = float(self.model.temperature), float(graded_loss.options["temperature"])
        if of_model != 1 and of_loss not in (1, of_model):
            raise ValueError(
                f"temperature is given twice, {of_model} in ModelArguments (--temperature) and {of_loss} in "
                f"{type(graded_loss).__name__}: pass one of them"
            )
        if graded_loss.options.get("gather"):
            raise ValueError("gather: Tevatron's encoder has gathered all processes' embeddings already")
        check_one_number(graded_loss.options)
        self._temperature = of_model if of_model != 1 else of_loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if len(inputs) != 3:
            raise ValueError("the batch has no grades: pass data_collator=GradedCollator(data_args, tokenizer)")
        query, passage, grades = inputs
        output = model(query=query, passage=passage)
        shared = self.is_ddp and model.training  # when it evaluates, the encoder scores a process's own
        processes = dist.get_world_size() if shared else 1
        if shared:
            grades = everyones(grades, [len(grades)] * processes, None)
        if output.scores.shape[1] == len(output.scores) and self.graded_loss.options["in_batch"] is None:
            raise ValueError("one passage a query (train_group_size=1) and in_batch=None leave nothing to rank")
        loss = self.graded_loss(output.scores, grades, temperature=self._temperature) * processes
        return (loss, output) if return_outputs else loss
