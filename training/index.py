"""Keeps what is derived from large files: arrays, built once, memory-mapped ever after.

An index lies in a cache folder ($WASSRANK_CACHE, else $XDG_CACHE_HOME/wassrank, else ~/.cache/wassrank), a folder each
with arrays as .npy and index.json, which holds its files' paths, sizes and times. It is built again when one of these
has changed, and appears whole or not at all; of several processes that want it one builds and the others wait. Nothing
in it is ever unpickled. Small files are indexed anew each time, in memory: that takes less than a second.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import InputError, first_line
from training.folders import staged

Arrays = Mapping[str, NDArray[Any]]

CACHED_FROM = 4 << 20  # bytes: below, a file of judgements (30 bytes a line, 5 µs) is indexed in under a second
FORMAT = 1  # to be raised with every change of what the arrays mean
INDEX_FILE = "index.json"


def cached(kind: str, paths: Sequence[Path], build: Callable[[], Arrays]) -> Arrays:
    """What `build` makes of the files `paths`: from the cache if it is there, else built, and cached if they are large.

    Raises:
        InputError: a file is missing or changes while it is read, or the cache cannot be written; and build's own.
    """
    files = [_signature(path) for path in paths]
    if sum(file["size"] for file in files) < CACHED_FROM:
        return build()
    described = {"format": FORMAT, "kind": kind, "files": files}
    name = blake2b("\0".join(file["path"] for file in files).encode(), digest_size=16).hexdigest()
    folder = cache_folder() / f"{kind}-{name}"
    with locked(folder):
        if _description(folder) != described:
            arrays = build()
            if [_signature(path) for path in paths] != files:
                raise InputError(f"{paths[0]}: changed while it was read")
            with staged(folder, INDEX_FILE) as staging:
                for array_name, array in arrays.items():
                    np.save(staging / f"{array_name}.npy", array, allow_pickle=False)
                (staging / INDEX_FILE).write_text(json.dumps(described), encoding="utf-8")
        return _mapped(folder)


def cache_folder() -> Path:
    """Where indexes lie."""
    own = os.environ.get("WASSRANK_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "wassrank"


def small(positions: NDArray[Any], size: int) -> NDArray[Any]:
    """Positions in something of `size` entries, or −1, in as few bytes as that takes."""
    return positions.astype(np.int32 if size <= np.iinfo(np.int32).max else np.int64)


def _signature(path: Path) -> dict[str, Any]:
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    # The time of the last change of the inode too: a copy can carry the old time of modification, but not that.
    return {
        "path": str(path.resolve()),
        "size": stat.st_size,
        "modified": stat.st_mtime_ns,
        "changed": stat.st_ctime_ns,
    }


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Of several processes that want `folder`, in the cache, one at a time; what a killed one left half-written goes.

    Raises:
        InputError: the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock").open("w")
    except OSError as error:
        raise InputError(
            f"{folder.parent}: the cache cannot be written: {error.strerror}; see WASSRANK_CACHE"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        for partial in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed: we hold the lock
            shutil.rmtree(partial)
        yield


def _description(folder: Path) -> Any:
    """What an index says of itself; None if there is none."""
    try:
        return json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error


def _mapped(folder: Path) -> Arrays:
    try:
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in folder.glob("*.npy")}
    except (OSError, ValueError) as error:  # what NumPy raises for a file that is too short, or no array
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder}: a damaged index, delete it and it is built again: {first_line(error)}")
