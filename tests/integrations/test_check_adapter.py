"""`wassrank.testing.check_adapter` in two processes that share a batch. In one: tests/test_testing.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra st")

from .check_worker import LOSSES

pytestmark = pytest.mark.full

FINDINGS = {
    "unmasked": "unmasked: padded passages take part",
    "not multiplied": "whole batch divided by 2.*multiply the loss by the number of processes",
    "not gathered": "not gathered: each process",
    "detached": "the gather is detached",
    "column by column": "transposed: ",
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, run_two: Callable[[str, Path], list[Any]]) -> list[Any]:
    return run_two("check_worker", tmp_path_factory.mktemp("check"))


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_right_passes_and_each_mistake_is_named_in_both(name: str, both: list[Any]) -> None:
    for process in both:
        if name not in FINDINGS:
            assert process[name] == []
        else:
            (found,) = process[name]
            assert re.search(FINDINGS[name], found), found
