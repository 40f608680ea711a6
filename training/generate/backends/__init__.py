"""What writes: one small file for each way of reaching a language model, all called alike (see `base`)."""

from __future__ import annotations

from training.generate.backends.base import Backend, BusyError, Completion, Message, RejectedError, Sampling

__all__ = ["Backend", "BusyError", "Completion", "Message", "RejectedError", "Sampling"]
