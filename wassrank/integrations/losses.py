"""The losses that a framework's module offers, each once: a module's class is one of these and its own `_Loss`."""

from __future__ import annotations

from typing import ClassVar

from wassrank import modules


class Wasserstein:
    """`wassrank.grade_wasserstein`: what it costs to move the scores' probability to where the labels want it, along
    the axis of grades."""

    core: ClassVar[type[modules._Loss]] = modules.GradeWassersteinLoss


class GaussianWasserstein:
    """`wassrank.gaussian_wasserstein`, the loss of Esfandiarpoor et al., exact: it compares statistics of the batch."""

    core: ClassVar[type[modules._Loss]] = modules.GaussianWassersteinLoss


class ListwiseKL:
    """`wassrank.listwise_kl`."""

    core: ClassVar[type[modules._Loss]] = modules.ListwiseKLLoss


class InfoNCE:
    """`wassrank.info_nce`: the best grade is positive, the others are negative."""

    core: ClassVar[type[modules._Loss]] = modules.InfoNCELoss


class Combined:
    """`wassrank.combined_loss`: a weighted sum of the distance, InfoNCE and KL."""

    core: ClassVar[type[modules._Loss]] = modules.CombinedLoss
