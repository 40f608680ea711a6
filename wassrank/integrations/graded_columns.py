"""What losses of a query column and passage columns share, whatever a text's embedding is: sentence-transformers' and
PyLate's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from wassrank import modules

from .citations import SYCL
from .in_batch import among_all, gathered, processes, summed
from .options import check_one_number, scale_of

Similarity = Callable[..., Tensor]


class GradedColumns(nn.Module):
    """A loss of wassrank as this framework calls it.

    Args:
        model: the framework's.
        scale: what scores are multiplied by, 1 / temperature; None: `default_scale`. Or give `temperature`.
        similarity_fct: a function as the framework's own losses take one, or the name of one of `similarities`; None:
            the first of these.
        gather_across_devices: rank each query against the passages of all processes, which have equally many queries.
            A mean is of each process's queries that are not empty; DistributedDataParallel takes the mean of those.
        missing_label: the label that says "no passage here", where queries have different numbers of passages: the
            text in such a place is embedded (the framework does that) and takes no part. None: every label is a grade.
        options: those of the wassrank loss: p, label_temperature, target, in_batch (None: a query is compared with its
            own passages alone), num_levels, …

    Requirements:
        1. A dataset whose label column holds a list of grades a row, one a passage: integers from 0 up, or floats (a
           teacher's scores).
        2. The same number of passages all over; for fewer see `missing_label`.

    Inputs:
        (query, passage_1, …, passage_n) with labels [grade_1, …, grade_n], in any order of grades.
    """

    core: ClassVar[type[modules._Loss]]
    ways: ClassVar[tuple[bool | str, ...]] = (False, True)  # to gather
    similarities: ClassVar[dict[str, Similarity]]
    similarity_argument: ClassVar[str] = "similarity_fct"  # the framework's name for it
    name_of: Callable[[Similarity], str]  # … and for one of them
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
        if gather_across_devices and options.get("symmetric"):
            raise ValueError("symmetric=True ranks the queries of one process: pass gather_across_devices=False")
        check_one_number(options)
        self.wassrank = type(self).core(temperature=1 / self.scale, **options)

    def _similarity(self, given: Similarity | str | None) -> Similarity:
        if given is None:
            return next(iter(self.similarities.values()))
        if not isinstance(given, str):
            return given
        if given not in self.similarities:
            raise ValueError(
                f"{self.similarity_argument} must be a function or one of {tuple(self.similarities)}, got {given!r}"
            )
        return self.similarities[given]

    @property
    def of_the_batch(self) -> bool:
        """A statistic of all processes' rows, no mean or sum over rows."""
        return "reduction" not in self.wassrank.options

    def gathers(self) -> bool:
        """Whether a batch is to have all processes' passages. Without other queries' passages a row has no use for
        those of other processes."""
        asked = bool(self.gather_across_devices) and processes() > 1
        return asked and (self.of_the_batch or self.wassrank.options["in_batch"] is not None)

    def graded(self, passages: int, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Grades [B, n] of so many passages a query, 0 where one is missing, and the mask, True = a real passage; None
        where all are."""
        name = type(self).__name__
        if not passages:
            raise ValueError(
                f"{name} got one text column: the dataset needs the query's column first, then at least one passage "
                f"column"
            )
        if labels is None:
            raise ValueError(
                f"{name} needs grades: add a column named 'label' that holds a list of {passages} grades a row, one "
                f"for each of the query's passages"
            )
        if labels.dim() == 1 and passages == 1:
            labels = labels.unsqueeze(1)
        if labels.dim() != 2 or labels.shape[1] != passages:
            held = f"{labels.shape[1]} grades" if labels.dim() == 2 else "one number"
            raise ValueError(
                f"{name}: the dataset has {passages} passages a query and its label column holds {held} a row (labels "
                f"{tuple(labels.shape)}): make it a list of {passages} grades, in the order of the passages; where a "
                f"row has fewer passages, give the rest an empty text and the label missing_label=…"
            )
        if passages == 1 and self.wassrank.options["in_batch"] is None:
            raise ValueError(
                f"{name}: one passage a query and in_batch=None leave nothing to rank it against, the loss would "
                f"always be 0: add passages, or let other queries' passages count (in_batch=0)"
            )
        if self.missing_label is not None:
            mask = labels != self.missing_label
            return labels.masked_fill(~mask, 0), mask
        # On a GPU looking would wait for it.
        if labels.is_cpu and not labels.is_floating_point() and bool((labels < 0).any()):
            raise ValueError(
                f"{name}: the label column holds {int(labels.min())}, grades are integers from 0 up: if it says that "
                f"there is no passage, pass missing_label={int(labels.min())}"
            )
        return labels, None

    def of_scores(self, scores: Tensor, grades: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of this process's queries.

        scores [B, N] query-major, N passages of all processes where the loss `gathers`; or, own passages alone,
        [B, n]; grades and mask [B, n]."""
        if not self.gathers():
            return self._core(scores, grades, mask=mask)
        if self.of_the_batch:
            return summed(self._core(scores, grades, mask=mask, gather=True))
        loss = self._core(*among_all(scores, grades), mask=None if mask is None else gathered(mask))
        return summed(loss) if self.wassrank.options["reduction"] == "sum" else loss

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
            "similarity_fct": type(self).name_of(self.similarity_fct),
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
