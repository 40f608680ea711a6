"""Exact search in blocks against one matrix product and one sort."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from training import search
from training.errors import InputError
from training.search import top_k


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "QUERY_BLOCK", 3)
    monkeypatch.setattr(search, "PASSAGE_BLOCK", 5)


@pytest.mark.parametrize("k", [1, 4, 7, 23, 50])
@pytest.mark.usefixtures("small_blocks")
def test_blocks_find_what_a_sort_of_all_scores_finds(k: int) -> None:
    """k below, at and above a block's 5 passages, and above all 23."""
    torch.manual_seed(k)
    queries, passages = torch.randn(7, 6), torch.randn(23, 6)
    scores, positions = top_k(queries, passages, k)
    expected = (queries @ passages.T).sort(dim=1, descending=True)
    torch.testing.assert_close(scores, expected.values[:, :k])
    assert positions.equal(expected.indices[:, :k])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["queries", "passages"])
def test_embeddings_that_are_no_numbers_are_refused(value: float, where: str) -> None:
    torch.manual_seed(0)
    queries, passages = torch.randn(4, 4), torch.randn(12, 4)
    (queries if where == "queries" else passages)[-1, 2] = value
    with pytest.raises(InputError, match="not finite"):
        top_k(queries, passages, 3)


def test_two_models_embeddings_are_refused() -> None:
    with pytest.raises(InputError, match="queries have 4 dimensions and passages 5"):
        top_k(torch.randn(2, 4), torch.randn(3, 5), 1)


def test_faiss_is_asked_for_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)  # as if it were not installed
    with pytest.raises(InputError, match="FAISS is not installed"):
        top_k(torch.randn(2, 4), torch.randn(3, 4), 1, engine="faiss")


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss-cpu is not installed")
@pytest.mark.usefixtures("small_blocks")
def test_faiss_finds_the_same() -> None:
    torch.manual_seed(0)
    queries, passages = torch.randn(7, 6), torch.randn(23, 6)
    ours, theirs = top_k(queries, passages, 9), top_k(queries, passages, 9, engine="faiss")
    torch.testing.assert_close(theirs[0], ours[0])
    assert theirs[1].equal(ours[1])
