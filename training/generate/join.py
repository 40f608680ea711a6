"""Joins the outputs of several shards into one collection, or makes one of what a run has finished so far.

python -m training.generate.join SHARD SHARD … --out DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from training.cli import OneLineErrors, exit_status
from training.errors import InputError
from training.fingerprint import fingerprint
from training.folders import staged
from training.generate.collection import write_collection
from training.generate.context import RankingContext
from training.generate.reading import contexts_as_they_are


def join(folders: Iterable[Path], out: Path) -> None:
    """Write the contexts of all `folders` as one collection into `out`.

    Raises:
        InputError: a query is there twice, a folder has no contexts, or `out` is not free.
    """
    with staged(out) as folder:
        write_collection(_each_once(folders), folder)


def _each_once(folders: Iterable[Path]) -> Iterator[RankingContext]:
    seen: set[int] = set()
    for folder in folders:
        for where, context in contexts_as_they_are(folder):
            identity = fingerprint(context.query_id)
            if identity in seen:
                raise InputError(
                    f"{where}: query {context.query_id!r} has a context already, here or in another folder"
                )
            seen.add(identity)
            yield context


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = OneLineErrors(
        prog="training.generate.join", description="Joins shards' ranking contexts into one BEIR collection."
    )
    parser.add_argument("folders", type=Path, nargs="+", help="outputs of training.generate")
    parser.add_argument("--out", type=Path, required=True, help="folder that does not exist yet")
    options: argparse.Namespace = parser.parse_args(arguments)

    def command() -> None:
        join(options.folders, options.out)
        print(f"collection: {options.out}")

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
