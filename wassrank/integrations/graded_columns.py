"""What sentence-transformers' losses of a query column and passage columns share, whatever a text's embedding is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from wassrank import modules

from .citations import SYCL
from .in_batch import among_all, whole_batch
from .labels import split_missing
from .needs import needs
from .scale import scale_of

with needs("sentence-transformers", "st"):
    from sentence_transformers.util import all_gather, get_rank, get_world_size, similarity_fct_name

Similarity = Callable[..., Tensor]


class GradedColumns(nn.Module):
    """A loss of wassrank as this framework calls it.

    Args:
        model: the framework's.
        scale: what scores are multiplied by, 1 / temperature; None: `default_scale`. Or give `temperature`.
        similarity_fct: a function as the framework's own losses take one, or the name of one of `similarities`; None:
            the first of these.
        gather_across_devices: rank each query against the passages of all processes, which have equally many queries.
        missing_label: the label that says "no passage here", where queries have different numbers of passages: the
            text in such a place is embedded (the framework does that) and takes no part. None: every label is a grade.
        options: those of the wassrank loss: p, label_temperature, target, in_batch (None: a query is compared with its
            own passages alone), num_levels, …

    Requirements:
        1. A dataset whose label column holds a list of grades a row, one a passage column: integers from 0 up, or
           floats (a teacher's scores).
        2. The same number of passage columns all over; for fewer passages see `missing_label`.

    Inputs:
        (query, passage_1, …, passage_n) with labels [grade_1, …, grade_n], in any order of grades.
    """

    core: ClassVar[type[modules._Loss]]
    of_the_batch: ClassVar[bool] = False  # a statistic of all processes' rows, no mean over rows
    ways: ClassVar[tuple[bool | str, ...]] = (False, True)  # to gather
    similarities: ClassVar[dict[str, Similarity]]
    default_scale: ClassVar[float]

    wassrank: modules._Loss

    def __init__(
        self,
        model: nn.Module,
        scale: float | None = None,
        similarity_fct: Similarity | str | None = None,
        gather_across_devices: bool | str = False,
        missing_label: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.model = model
        self.scale = scale_of(scale, options, self.default_scale)
        self.similarity_fct = self._similarity(similarity_fct)
        self.gather_across_devices = gather_across_devices
        self.missing_label = missing_label
        if gather_across_devices not in self.ways:
            raise ValueError(f"gather_across_devices must be one of {self.ways}, got {gather_across_devices!r}")
        if "gather" in options or "group" in options:
            raise TypeError("passages are shared by all processes or none: pass gather_across_devices=True")
        if options.get("reduction", "mean") == "none":
            raise ValueError("the trainer takes one number a batch: reduction must be 'mean' or 'sum', got 'none'")
        self.wassrank = type(self).core(temperature=1 / self.scale, **options)

    def _similarity(self, given: Similarity | str | None) -> Similarity:
        if given is None:
            return next(iter(self.similarities.values()))
        if not isinstance(given, str):
            return given
        if given not in self.similarities:
            raise ValueError(f"similarity_fct must be a function or one of {tuple(self.similarities)}, got {given!r}")
        return self.similarities[given]

    def gathers(self) -> bool:
        """Whether a batch is to have all processes' passages. Without other queries' passages a mean over rows has no
        use for those of other processes."""
        asked = bool(self.gather_across_devices) and get_world_size() > 1
        return asked and (self.of_the_batch or self.wassrank.options["in_batch"] is not None)

    def graded(self, columns: int, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Grades [B, n] of so many passage columns, and which are real passages; None: all."""
        if not columns:
            raise ValueError(
                f"{type(self).__name__} got one text column: the dataset needs the query's column first, then at "
                f"least one passage column"
            )
        if labels is None:
            raise ValueError(
                f"{type(self).__name__} needs grades: add a column named 'label' that holds a list of {columns} "
                f"grades a row, one for each of the passage columns"
            )
        if labels.dim() == 1 and columns == 1:
            labels = labels.unsqueeze(1)
        if labels.dim() != 2 or labels.shape[1] != columns:
            held = f"{labels.shape[1]} grades" if labels.dim() == 2 else "one number"
            raise ValueError(
                f"{type(self).__name__}: the dataset has {columns} passage columns behind the query and its label "
                f"column holds {held} a row (labels {tuple(labels.shape)}): make it a list of {columns} grades, "
                f"in the order of the columns; where a row has fewer passages, give the rest an empty text and the "
                f"label missing_label=…"
            )
        if columns == 1 and self.wassrank.options["in_batch"] is None:
            raise ValueError(
                f"{type(self).__name__}: one passage a query and in_batch=None leave nothing to rank it against, the "
                f"loss would always be 0: add passage columns, or let other queries' passages count (in_batch=0)"
            )
        return split_missing(labels, self.missing_label)

    def of_scores(self, scores: Tensor, grades: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of this process's queries.

        scores [B, N] query-major, N passages of all processes where the loss `gathers`; or, own passages alone,
        [B, n]; grades and mask [B, n]."""
        if not self.gathers():
            return self._core(scores, grades, mask=mask)
        if self.of_the_batch:
            return whole_batch(self._core(scores, grades, mask=mask, gather=True), get_world_size())
        mask = None if mask is None else all_gather(mask)
        return self._core(*among_all(scores, grades, get_rank(), get_world_size()), mask=mask)

    def _core(self, scores: Tensor, grades: Tensor, **given: Any) -> Tensor:
        loss: Tensor = self.wassrank(scores, grades, **given)
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """What made this loss, in plain values: WassersteinLoss(model, **config) makes it again, unless similarity_fct
        is a function of one's own, of which this has the name."""
        held = {
            name: value
            for name, value in self.wassrank.options.items()
            if (name not in ("temperature", "gather", "group") and value is not None) or name == "in_batch"
        }
        return {
            "scale": self.scale,
            "similarity_fct": similarity_fct_name(self.similarity_fct),
            "gather_across_devices": self.gather_across_devices,
            "missing_label": self.missing_label,
            **held,
        }

    @property
    def temperature(self) -> float:
        return 1 / self.scale

    @property
    def citation(self) -> str:
        return SYCL
