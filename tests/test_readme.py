"""The README's figures are those of the stored results, and its snippet runs."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from benchmarks import readme


def test_tables_are_what_the_stored_results_say() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.filled(text) == text, "run python -m benchmarks.readme"


def test_stored_results_name_no_path_of_the_machine() -> None:
    for path in (Path(readme.__file__).parent / "results").glob("*.json"):
        assert not re.search(r'"/\w', path.read_text(encoding="utf-8")), path


def test_snippet_runs_as_it_stands() -> None:
    snippet = re.search(r"```python\n(.*?)```", readme.README.read_text(encoding="utf-8"), re.DOTALL)
    assert snippet
    queries = torch.randn(4, 16, requires_grad=True)
    names = {
        "queries": queries,
        "passages": torch.randn(12, 16),
        "labels": torch.randint(0, 4, (4, 3)),
        "mask": torch.tensor([[True, True, True]] * 3 + [[True, True, False]]),
    }
    exec(snippet[1], names)
    assert queries.grad is not None
    assert queries.grad.isfinite().all()
    assert (queries.grad != 0).any()
