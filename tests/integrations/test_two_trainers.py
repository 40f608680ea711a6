"""sentence-transformers' own trainers in two processes, which share a batch, go where one with the whole batch goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra st")

from .trainer_worker import CASES, STEPS, train

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, run_two: Callable[[str, Path], list[Any]]) -> list[Any]:
    return run_two("trainer_worker", tmp_path_factory.mktemp("trainers"))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name: str, both: list[Any], tmp_path: Path) -> None:
    losses, movements = train(name, tmp_path)
    assert len(losses) == STEPS
    assert any(movement.norm() > 0 for movement in movements)
    for process in both:
        found, found_movements = process[name]
        # The trainer reports the processes' mean; a sum over rows is each process's own.
        reported = [loss / 2 for loss in losses] if "sum" in name else losses
        assert found == pytest.approx(reported, rel=1e-5)
        for one, other in zip(found_movements, movements, strict=True):
            assert (one - other).norm() <= 1e-6 * other.norm() + 1e-12
