"""What a training step costs, and how much of that the loss does: measured, in the step as it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import register_multi_grad_hook
from transformers import TrainerCallback

Mark = float | torch.cuda.Event

MEASURED_STEPS = 200
"""Enough for a mean; a long run need not keep CUDA events for every step it takes."""


class StepClock(TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
    """Times MEASURED_STEPS optimisation steps, after the first, which warms things up, and their loss.

    A step runs from the end of the one before to its own end, collation included. The loss is its forward from the
    scores on, and its backward as far as the scores; computing the scores themselves is not part of it, unless it is
    the loss that does so, from embeddings. CPU by the wall clock, CUDA by events on the stream, so that nothing waits
    for the device.
    """

    def __init__(self) -> None:
        self._steps = -1  # ended since the clock started; -1 until the first step has ended
        self._step_span: list[Mark] = []
        self._loss_spans: list[tuple[Mark, Mark]] = []
        self._device = torch.device("cpu")

    def timed(self, loss: Callable[[], Tensor], *sources: Tensor) -> Tensor:
        """loss(), noting when its forward and its backward begin and end.

        `sources` is where its backward ends: the scores, or queries and passages if it starts from those.
        """
        if self._steps >= MEASURED_STEPS:
            return loss()
        self._device = sources[0].device
        start = self._mark()
        value = loss()
        self._loss_spans.append((start, self._mark()))
        if value.requires_grad:
            # Its backward lies between the gradient's arrival at its value and that at the first of its sources. All
            # have theirs by then, but autograd comes to the others when it is through with what lies before the first.
            began: list[Mark] = []
            value.register_hook(lambda _: began.append(self._mark()))
            register_multi_grad_hook(
                sources, lambda _: self._loss_spans.append((began.pop(), self._mark())), mode="any"
            )
        return value

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._steps >= MEASURED_STEPS:
            return
        self._steps += 1
        if self._steps == 0:
            self._loss_spans.clear()
        self._step_span = [*self._step_span[:1], self._mark()]

    def seconds_per_step(self) -> float | None:
        """Mean of the measured steps; None where there was none."""
        return None if self._steps < 1 else _seconds(*self._step_span) / self._steps

    def loss_share(self) -> float | None:
        """The loss's part of the measured steps, between 0 and 1; None where there was none."""
        if self._steps < 1:
            return None
        return sum(_seconds(*span) for span in self._loss_spans) / _seconds(*self._step_span)

    def _mark(self) -> Mark:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _seconds(start: Mark, end: Mark) -> float:
    if isinstance(start, float) or isinstance(end, float):
        return float(end) - float(start)  # type: ignore[arg-type]  # one clock makes marks of one kind
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
