"""What can be evaluated on: folders, hub names, a list of both; and how each is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from training.errors import InputError
from training.evaluation_sets import PAPERS_SETS, open_collection, read_sets
from training.hub import hub_folder, is_hub_name

REVISION = "0123456789" * 4


@pytest.fixture
def hub(tmp_path: Path, collection_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Offline, with the test collection in the hub's cache as mteb/tiny."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "datasets--mteb--tiny"
    shutil.copytree(collection_folder, repository / "snapshots" / REVISION)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION, encoding="utf-8")
    return repository / "snapshots" / REVISION


def test_the_papers_list_has_fifteen_collections() -> None:
    sets = read_sets(PAPERS_SETS)
    collections = {one.data for one in sets}
    assert len(collections) == 15
    assert [one.name for one in sets if one.data.startswith("mteb/msmarco@")] == ["msmarco-dev", "dl19", "dl20"]
    # A revision each: what is evaluated on does not change.
    assert all(re.fullmatch(r"mteb/[a-z0-9-]+@[0-9a-f]{40}", data) for data in collections)


def test_a_hub_name_is_read_at_its_revision(hub: Path) -> None:
    for name in ("mteb/tiny", f"mteb/tiny@{REVISION}"):
        assert hub_folder(name) == hub
        collection = open_collection(name, "test")
        # Queries of other splits, and grades below 0, are no mistake in others' collections.
        assert list(collection.qrels["test"]) == ["q8", "q9", "q10", "q11"]
    with (hub / "qrels" / "test.tsv").open("a", encoding="utf-8") as file:
        file.write("q8\tq9_g0\t-1\n")
    assert "q9_g0" not in open_collection("mteb/tiny", "test").qrels["test"]["q8"]


def test_a_hub_name_that_cannot_be_had_is_refused_in_one_line(hub: Path, tmp_path: Path) -> None:
    for name in ("mteb/absent", f"mteb/tiny@{'f' * 40}"):
        with pytest.raises(InputError, match=f"{name}: no such folder; as a hub name it cannot be had: ") as caught:
            open_collection(name, "test")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"corpus\.jsonl: cannot be read"):
        open_collection(str(tmp_path / "absent"), "test")
    with pytest.raises(InputError, match="neither a folder nor a hub name"):
        hub_folder("no hub name")


def test_a_folder_comes_before_a_hub_name(
    hub: Path, collection_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(collection_folder, tmp_path / "mteb" / "tiny")
    queries = tmp_path / "mteb" / "tiny" / "queries.jsonl"
    queries.write_text(queries.read_text(encoding="utf-8").replace("w0 w1", "w59 w1"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("mteb/tiny")
    assert open_collection("mteb/tiny", "test").queries["q0"].startswith("w59")


def test_a_sets_own_queries_and_judgements_are_read(hub: Path, tmp_path: Path) -> None:
    """As TREC 2020's, which share MS MARCO's corpus; from the hub and from files beside the list."""
    (tmp_path / "mine.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tq1_g1\t2\n", encoding="utf-8")
    (tmp_path / "sets.yaml").write_text(
        "hub: {data: mteb/tiny, qrels: 'mteb/tiny:qrels/train.tsv'}\n"
        "own: {data: mteb/tiny, qrels: mine.tsv, relevant_grade: 2}\n"
        "folder: {data: collection, split: train}\n",
        encoding="utf-8",
    )
    hubs, own, folder = (one.read() for one in read_sets(tmp_path / "sets.yaml"))
    assert len(hubs.qrels["test"]) == 8
    assert {query: dict(own.qrels["test"][query]) for query in own.qrels["test"]} == {"q0": {"q1_g1": 2}}
    assert len(folder.qrels["train"]) == 8
    assert [one.name for one in read_sets(tmp_path / "sets.yaml", ["own"])] == ["own"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a, b]", "must be a mapping of names"),
        ("a: b", "a: must be a mapping with the key data"),
        ("a: {data: x, splt: dev}", "a: splt: no such key"),
        ("a: {data: x, relevant_grade: 0}", "relevant_grade: must be an integer of at least 1"),
        ("a: {data: 3}", "data: must be a text"),
        ("a: {data: x}\na: {data: y}", "the key 'a' comes twice"),
        ("../a: {data: x}", "letters, digits"),
        ("a: {data: x}", "has no 'b'; there are a"),
    ],
)
def test_a_broken_list_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "sets.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(complaint)):
        read_sets(tmp_path / "sets.yaml", ["b"])


def test_a_relevant_grade_that_nothing_reaches_is_refused(collection_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sets.yaml").write_text("a: {data: collection, relevant_grade: 4}", encoding="utf-8")
    with pytest.raises(InputError, match="a: the highest grade of 'test' is 3, below the relevant grade 4"):
        read_sets(tmp_path / "sets.yaml")[0].read()
