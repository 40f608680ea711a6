"""The README's figures are those of the stored results, and its snippet runs."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from benchmarks import from_embeddings, polar_factor, readme, study


def test_tables_are_what_the_stored_results_say() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.filled(text) == text, "run python -m benchmarks.readme"


def test_stored_results_name_no_path_of_the_machine() -> None:
    for path in (Path(readme.__file__).parent / "results").glob("*.json"):
        assert not re.search(r'"/\w', path.read_text(encoding="utf-8")), path


def test_snippet_runs_as_it_stands() -> None:
    snippet = re.search(r"```python\n(.*?)```", readme.README.read_text(encoding="utf-8"), re.DOTALL)
    assert snippet
    # Embeddings of length 1, as a retriever's are: at temperature 0.05 longer ones saturate the softmax.
    generator = torch.Generator().manual_seed(0)
    queries, passages = (torch.nn.functional.normalize(torch.randn(n, 16, generator=generator)) for n in (4, 12))
    queries.requires_grad_()
    names = {
        "queries": queries,
        "passages": passages,
        "labels": torch.randint(0, 4, (4, 3), generator=generator),
        "mask": torch.tensor([[True, True, True]] * 3 + [[True, True, False]]),
    }
    exec(snippet[1], names)
    assert queries.grad is not None
    assert queries.grad.isfinite().all()
    assert (queries.grad != 0).any()


def test_the_page_on_the_polar_factor_holds_the_newest_results() -> None:
    assert polar_factor.PAGE.read_text(encoding="utf-8") == polar_factor.page(), (
        "run python -m benchmarks.polar_factor --page"
    )


def test_the_page_on_losses_from_embeddings_holds_the_newest_results() -> None:
    assert from_embeddings.PAGE.read_text(encoding="utf-8") == from_embeddings.page(), (
        "run python -m benchmarks.from_embeddings --page"
    )


def test_the_page_on_the_study_holds_the_newest_results() -> None:
    assert study.PAGE.read_text(encoding="utf-8") == study.page(), "run python -m benchmarks.study --page"
