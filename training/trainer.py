"""Fine-tunes a bi-encoder on graded groups with HF Trainer: what a step does, and what a run gives back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from tqdm.auto import tqdm  # type: ignore[import-untyped]
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from training.checkpoints import LAST, check_fits, last_checkpoint
from training.chunked_encoding import check_chunk_size
from training.encoder import BiEncoder
from training.errors import InputError
from training.folders import writing
from training.groups import GradedGroups, GroupCollator
from training.sharded import Whole
from training.timing import StepClock

DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "num_train_epochs": 3,
    "learning_rate": 5e-5,
    "warmup_steps": 0.1,  # below 1: a share of all steps
    "weight_decay": 0.01,
    "seed": 1,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
    "dataloader_drop_last": True,  # a last batch of few queries has few in-batch negatives: another loss
    "dataloader_pin_memory": torch.cuda.is_available(),
    "remove_unused_columns": False,  # an example is a Group, not the model's arguments
    "logging_nan_inf_filter": False,  # a NaN is shown, not replaced by the mean of what came before
    "disable_tqdm": True,  # LossBar in its place
}
"""TrainingArguments where this trainer differs from Hugging Face, or where the choice matters to it."""


EARLY_STOPPING: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,  # the best and the last
    "load_best_model_at_end": True,
    "metric_for_best_model": "ndcg@10",
    "greater_is_better": True,
}
"""TrainingArguments for stopping when nDCG@10 no longer rises, and keeping the best model."""

Measure = Callable[[], Mapping[str, float]]
"""Measures the model as it is."""


def training_arguments(output_dir: Path, **given: Any) -> TrainingArguments:
    """HF TrainingArguments with this trainer's DEFAULTS; `given` wins.

    Raises:
        InputError: a value HF refuses.
    """
    try:
        return TrainingArguments(output_dir=str(output_dir), **(DEFAULTS | given))
    except (ValueError, TypeError) as error:
        raise InputError(f"training arguments: {error}") from error


@dataclass(frozen=True)
class TrainingRun:
    """What a run gives back beside the trained encoder."""

    steps: list[int]  # where the loss was logged
    losses: list[float]  # its mean since the entry before
    seconds_per_step: float | None  # None for a run of one step
    loss_share: float | None  # the loss's part of a step, 0 to 1
    evaluations: list[dict[str, float]] = field(default_factory=list)  # each with its step


GATHERINGS: dict[str, bool | str] = {"none": False, "passages": True, "ring": "ring"}
"""`gather` of wassrank's losses from embeddings, by the names the command has for it."""


class GradedTrainer(Trainer):  # type: ignore[misc]  # mypy does not follow transformers
    """HF Trainer whose step embeds a batch of groups, scores queries against passages and takes the loss.

    With gradient accumulation the gradient is the mean of the micro-batches', so it equals the big batch's
    where a row's loss depends on that row's own passages (in_batch None). In-batch negatives come from the
    micro-batch: 2 × 8 queries see half as many as 16. The same holds for several processes, unless they gather.

    With `gather` the processes' batches are one. Each process has the whole batch's loss and the gradients that one
    process holding the whole batch would have for these queries and passages. The whole batch's gradient of the
    weights is the sum of the processes'; DistributedDataParallel makes it their mean. So the loss is multiplied by the
    number of processes before its backward (`compute_loss`), and divided by it again for the log (`training_step`).

    Args:
        encoder: trained in place.
        loss: called as loss(scores [Q, Q·K] or [Q, K], grades [Q, K], mask=[Q, K]), or, from embeddings, as
            loss.from_embeddings(queries [Q, d], passages [Q·K, d], grades, mask=mask, gather=gather).
        in_batch: score every query against all passages of the batch, or only against its own. From embeddings the
            loss itself knows.
        encode_chunk_size: encode so many texts at a time (`chunked_encoding.py`); None: the batch at once.
        from_embeddings: give the loss embeddings, in float32, and never store the scores.
        gather: one of GATHERINGS; from embeddings only.
        measure: what in-training evaluation (--eval_strategy) reports, by name.

    args.resume_from_checkpoint is a checkpoint, or "last": the newest whole one in args.output_dir, if there is any.

    Raises:
        InputError: with dataloader_drop_last (the default), fewer queries than one batch; what cannot be:
            a chunk size below 1, `gather` without `from_embeddings`, fp16 on a CPU, a checkpoint of another model.
    """

    control: Any
    loss_is_scaled_for_ga = False  # a mean over the micro-batch: HF divides it by their number

    def __init__(
        self,
        encoder: BiEncoder,
        loss: nn.Module,
        args: TrainingArguments,
        groups: GradedGroups,
        callbacks: Sequence[TrainerCallback] = (),
        in_batch: bool = True,
        encode_chunk_size: int | None = None,
        from_embeddings: bool = False,
        gather: str = "none",
        measure: Measure | None = None,
    ) -> None:
        if args.dataloader_drop_last and len(groups) < args.train_batch_size:
            raise InputError(
                f"{len(groups)} training queries do not fill one batch of {args.train_batch_size}: "
                f"lower --per_device_train_batch_size"
            )
        if encode_chunk_size is not None:
            check_chunk_size(encode_chunk_size)
        if gather not in GATHERINGS:
            raise InputError(f"gather must be one of {', '.join(GATHERINGS)}, got {gather!r}")
        if gather != "none" and not from_embeddings:
            raise InputError("--gather shares embeddings among processes: it needs --from-embeddings")
        if args.fp16 and args.device.type == "cpu":
            # Hugging Face would train in float32 and not say so.
            raise InputError("--fp16 needs a GPU: on a CPU train with --bf16, or in float32")
        if args.eval_strategy != "no" and measure is None:
            raise InputError("evaluation in training has nothing to measure")
        resumed = args.resume_from_checkpoint
        self.resumed = last_checkpoint(Path(args.output_dir), args.world_size) if resumed == LAST else resumed
        if self.resumed is not None:
            check_fits(Path(self.resumed), encoder)
        self.clock = StepClock()
        collator = GroupCollator(encoder.tokenizer, encoder.max_length, None if gather == "none" else groups.size)
        # HF wants a data set to evaluate on, though it is `measure` that evaluates.
        evaluated = None if measure is None else groups
        callbacks = [self.clock, _EpochOfGroups(groups), *callbacks]
        super().__init__(encoder, args, collator, groups, evaluated, callbacks=callbacks)
        self.measure = measure
        self.remove_callback(PrinterCallback)  # HF's stand-in for its bar: a dict printed at every log
        self.loss: Any = loss  # a module; from embeddings, one of wassrank's
        self.in_batch = in_batch
        self.encode_chunk_size = encode_chunk_size
        self.from_embeddings = from_embeddings
        self.gather = GATHERINGS[gather]
        self.processes = args.world_size if self.gather else 1
        self.whole = Whole(self, encoder)

    def run(self) -> TrainingRun:
        """Train, from the checkpoint if there is one."""
        try:
            self.train(resume_from_checkpoint=None if self.resumed is None else str(self.resumed))
        finally:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, LossBar):
                    callback.close()  # what is printed next, of an error too, has a line of its own
        self.whole.for_good()
        history = self.state.log_history
        logged = [entry for entry in history if "loss" in entry]
        return TrainingRun(
            steps=[entry["step"] for entry in logged],
            losses=[entry["loss"] for entry in logged],
            seconds_per_step=self.clock.seconds_per_step(),
            loss_share=self.clock.loss_share(),
            evaluations=[_evaluation(entry) for entry in history if any(name.startswith("eval_") for name in entry)],
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        queries, passages = model(inputs["queries"], inputs["passages"], self.encode_chunk_size)
        loss = self.processes * self._loss_of(queries, passages, inputs["grades"], inputs["mask"])
        return (loss, {"queries": queries, "passages": passages}) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        logged: Tensor = super().training_step(*args, **kwargs)
        return logged / self.processes

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        assert self.measure is not None
        metrics: dict[str, float]
        with self.whole.inside():
            measured = {f"{metric_key_prefix}_{name}": value for name, value in self.measure().items()}
        # The first process's for all: where rounding differs, one would stop early and leave the others waiting.
        (metrics,) = broadcast_object_list([measured])
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            with writing(checkpoint):
                super()._save_checkpoint(*args, **kwargs)
        except InputError:
            shutil.rmtree(checkpoint, ignore_errors=True)  # of no use, and the disk is full
            raise

    def _loss_of(self, queries: Tensor, passages: Tensor, grades: Tensor, mask: Tensor) -> Tensor:
        if not self.from_embeddings:
            scores = score(queries, passages, self.in_batch)
            return self.clock.timed(lambda: self.loss(scores, grades, mask=mask), scores)
        with torch.autocast(queries.device.type, enabled=False):  # as for the scores: see `score`
            queries, passages = queries.float(), passages.float()
            return self.clock.timed(
                lambda: self.loss.from_embeddings(queries, passages, grades, mask=mask, gather=self.gather),
                queries,
                passages,
            )


def score(
    queries: Tensor,  # [Q, d]
    passages: Tensor,  # [Q·K, d], query-major
    in_batch: bool,
) -> Tensor:  # [Q, Q·K], or [Q, K] without in-batch passages; float32
    """Inner products in float32, under autocast too: at temperature 0.05 a bfloat16 cosine is off by 0.08
    nats."""
    with torch.autocast(queries.device.type, enabled=False):
        queries, passages = queries.float(), passages.float()
        if in_batch:
            return queries @ passages.T
        own = passages.view(len(queries), -1, passages.shape[-1])  # [Q, K, d]
        return (own @ queries.unsqueeze(-1)).squeeze(-1)


class _EpochOfGroups(TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
    """Tells the groups which epoch begins.

    Accelerate does so in some cases only: not with several processes, nor when a run resumes in mid-epoch. Each epoch
    would then draw the groups of the first.
    """

    def __init__(self, groups: GradedGroups) -> None:
        self._groups = groups

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._groups.set_epoch(int(state.epoch))


class LossBar(TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
    """One progress bar a run, with the loss of the last log."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar = tqdm(total=state.max_steps, desc=self._name, unit="step", disable=not state.is_world_process_zero)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._bar.set_postfix_str(f"loss {logs['loss']:.4g}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def fit(
    encoder: BiEncoder,
    groups: GradedGroups,
    loss: nn.Module,
    args: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
    **step: Any,
) -> TrainingRun:
    """Train `encoder` in place. The same seed gives the same groups, order and dropout, whatever the loss.

    `step` holds the further options of `GradedTrainer`, which also says what is refused.
    """
    return GradedTrainer(encoder, loss, args, groups, callbacks, **step).run()


def leave_processes() -> None:
    """At the end of a command: closes the connections to other processes, which Hugging Face opened. Left open, their
    threads may end the process with SIGABRT when Python is through."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _evaluation(entry: Mapping[str, float]) -> dict[str, float]:
    measured = {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
    return {"step": entry["step"]} | measured
