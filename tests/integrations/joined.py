"""What each of two processes does first and last: tests start workers of this folder by conftest.py's `run_two`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def main(work: Callable[[int, Path], Any]) -> None:
    """Joins the other process by gloo and keeps what `work(rank, folder)` returns where `run_two` looks for it."""
    out, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    # What trainers ask for; the processes have joined already, so that no port is used.
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    join = f"file://{out / 'join'}"
    dist.init_process_group("gloo", init_method=join, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    torch.save(work(rank, out), out / f"{rank}.pt")
    dist.destroy_process_group()
