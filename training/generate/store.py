"""The output folder of a run: what is finished is on disk at once, and nothing is there twice.

RECORDS.jsonl       one line an item that is finished (contexts.jsonl, or written.jsonl for queries)
set_aside.jsonl     one line an item the model gave no usable answer for, with what it said
manifest.json       model, prompts' hash, parameters, counts, tokens, failures
.lock               held by the process that writes

A line is written in one go and is whole, or it is cut off when the folder is next opened. The record files alone say
what is finished; the manifest is rewritten every few seconds, by rename, and at the end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.errors import InputError
from training.lines import decoded, json_object

MANIFEST, SET_ASIDE, LOCK = "manifest.json", "set_aside.jsonl", ".lock"
FORMAT = 1
SAVE_EVERY = 5.0
"""Seconds between two manifests, and what a power cut may cost: a process that dies loses nothing."""


class Store:
    """The folder `folder` of the run that `run` describes, locked from here to `close`.

    Args:
        folder: absent, empty, or the folder of the same run, which is then taken up again.
        records: the file of finished items.
        id_key: the key of an item's id in a record.
        run: plain data; what decides the results. Two runs are the same if it is equal.

    Raises:
        InputError: another process writes there, or the folder is another run's or nobody's.
    """

    def __init__(self, folder: Path, records: str, id_key: str, run: dict[str, Any]) -> None:
        self.folder = folder
        self.records = folder / records
        self._id_key = id_key
        self._run = json.loads(json.dumps(run))  # as it will be read back
        self._made = not folder.exists()
        self._files: dict[Path, _Lines] = {}
        self.failures: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.finished = self.set_aside = 0
        self._began = datetime.now(UTC).isoformat(timespec="seconds")
        self._saved = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder / LOCK)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror}") from error
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        manifest = self.folder / MANIFEST
        if not manifest.exists():
            if any(path.name != LOCK for path in self.folder.iterdir()):
                raise InputError(f"{self.folder}: is not empty and has no {MANIFEST}; name another folder")
            return
        there = _read_manifest(manifest)
        if there.get("format") != FORMAT or not isinstance(there.get("run"), dict):
            raise InputError(f"{manifest}: is no manifest of this version; name another folder")
        for name in sorted(self._run.keys() | there["run"].keys()):
            if (theirs := there["run"].get(name)) != (ours := self._run.get(name)):
                raise InputError(
                    f"{self.folder}: holds another run, with {name} {json.dumps(theirs)} in place of "
                    f"{json.dumps(ours)}; name another folder, or take up that run with its own options"
                )
        self._began = there["began"]
        self.failures.update(there["failures"])

    def open(self, **facts: Any) -> Iterator[str]:
        """The ids of what was finished by earlier processes, to be read to its end before anything is added.

        The run begins with the first `save`. `facts` go into the manifest as they are.
        """
        self._facts = facts
        for path in (self.records, self.folder / SET_ASIDE):
            self._files[path] = lines = _Lines(path)
            for number, record in lines.whole():
                if not isinstance(record.get(self._id_key), str):
                    raise InputError(f"{path}:{number}: has no {self._id_key!r}; the file was changed by someone else")
                self._count(path, record)
                yield record[self._id_key]

    def add(self, record: dict[str, Any]) -> None:
        """Keep a finished item."""
        self._append(self.records, record)

    def add_aside(self, record: dict[str, Any]) -> None:
        """Keep an item that the model gave no usable answer for."""
        self._append(self.folder / SET_ASIDE, record)

    def _append(self, path: Path, record: dict[str, Any]) -> None:
        self._files[path].append(record)
        self._count(path, record)
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save("running")

    def _count(self, path: Path, record: dict[str, Any]) -> None:
        self.tokens.update(record["tokens"])
        if path == self.records:
            self.finished += 1
        else:
            self.set_aside += 1

    def save(self, status: str, **facts: Any) -> None:
        """Sync the records to the disk and write the manifest. `status`: running, stopped, incomplete or complete."""
        for lines in self._files.values():
            lines.sync()
        self._facts |= facts
        total = self._facts["items"]
        manifest = {
            "format": FORMAT,
            "status": status,
            "run": self._run,
            **self._facts,
            "finished": self.finished,
            "set_aside": self.set_aside,
            "left": total - self.finished - self.set_aside,
            "tokens": dict(self.tokens),
            "failures": dict(sorted(self.failures.items())),
            "began": self._began,
            "saved": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_whole(self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        self._saved = time.monotonic()

    def save_if_possible(self, status: str) -> None:
        """As `save`, for a run that ends badly already: a full disk is then no news."""
        with contextlib.suppress(InputError):
            self.save(status)

    def close(self) -> None:
        """Give the folder free. Nothing stays in it of a run that never began, nor the folder if it was made for it."""
        for lines in self._files.values():
            lines.close()
        if not (self.folder / MANIFEST).exists():
            for path in (*self._files, self.folder / LOCK):
                path.unlink(missing_ok=True)
            if self._made and not any(self.folder.iterdir()):
                self.folder.rmdir()
        os.close(self._lock)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that at any moment either the old or the new one is there, whole.

    Raises:
        InputError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise full(path, error) from error


def full(path: Path, error: OSError) -> InputError:
    """The complaint about a write that failed."""
    advice = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        advice = "; what is finished is kept: make room and run the same command again"
    return InputError(f"{path}: cannot be written: {error.strerror}{advice}")


class _Lines:
    """A file of JSON lines that only grows, by whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise full(path, error) from error
        self._size = 0

    def whole(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The records by line number. A last line without its end, a process died in writing it, is cut off."""
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                yield number, json_object(decoded(line, self._path, number), self._path, number)
                self._size += len(line)
        os.ftruncate(self._file, self._size)

    def append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, self._size)  # the part of the line that found room
            raise full(self._path, error) from error
        self._size += len(line)

    def sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            raise full(self._path, error) from error

    def close(self) -> None:
        os.close(self._file)


def _locked(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise InputError(f"{path.parent}: another process is writing there") from error
    return lock


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return json_object(path.read_text(encoding="utf-8"), path, 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8") from error
