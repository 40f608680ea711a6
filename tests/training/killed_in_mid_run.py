"""`training.train` that is killed after its KILLED_AFTER-th step, before that is saved. For test_training_resume.py."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from training import train
from training.trainer import LossBar

KILLED_AFTER = 7


def kill(self: LossBar, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    if state.global_step == KILLED_AFTER:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    LossBar.on_step_end = kill  # type: ignore[method-assign]
    train.main(sys.argv[1:])
