"""Results appear whole or not at all: a folder is filled under a temporary name and renamed at the end."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from training.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota, and the process's own limit for a file


@contextmanager
def staged(target: Path, marker: str | None = None) -> Iterator[Path]:
    """An empty folder beside `target` that becomes `target` when the block ends, and vanishes when it fails.

    `target` may be absent or an empty folder. With `marker`, it may also be a folder that holds a file of
    that name, that is an earlier result, which is then replaced; nothing else is ever deleted.

    Raises:
        InputError: at once, before any work, if `target` is something that would have to be overwritten; later, if
            the disk is full.
    """
    target = Path(os.path.abspath(target))
    _check_free(target, marker)
    staging = _beside(target)
    try:
        with writing(target):
            yield staging
            staging.chmod(0o777 & ~_umask())  # mkdtemp makes it private, a result is not
            _check_free(target, marker)  # it may have been made meanwhile
            if target.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
                os.replace(target, old)
                os.replace(staging, target)
                shutil.rmtree(old)
            else:
                os.replace(staging, target)
    finally:
        if staging.exists():
            shutil.rmtree(staging)


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A file's path that becomes `target` when the block ends, and is gone when it fails; `target` must be new.

    Raises:
        InputError: at once, if `target` is there or its folder cannot be written; later, if the disk is full.
    """
    if target.exists():
        raise InputError(f"{target}: is there already; name a file that does not exist yet")
    staging = _beside(target)
    try:
        with writing(target):
            yield staging / target.name
            os.replace(staging / target.name, target)
    finally:
        shutil.rmtree(staging)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """What a full disk leaves undone inside, whoever writes, is an InputError that names `target`."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _full(error)
        if reason is None:
            raise
        raise InputError(f"{target}: cannot be written: {reason}") from error


def _full(error: Exception) -> str | None:
    """What the system says of a full disk; None: it is another error."""
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in FULL else None
    told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors, which is written in Rust
    if told is not None and int(told[1]) in FULL:
        return os.strerror(int(told[1]))
    # torch.save does not say why its writer came to a wrong place: nothing else brings it there.
    stopped = re.search(r"PytorchStreamWriter|unexpected pos \d+ vs \d+", str(error))
    return None if stopped is None else "the disk is full"


def _beside(target: Path) -> Path:
    """A new folder that can be renamed to `target`."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error


def _check_free(target: Path, marker: str | None) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target}: is a file; name a folder that does not exist yet")
    if any(target.iterdir()) and not (marker is not None and (target / marker).is_file()):
        raise InputError(f"{target}: is a folder that is not empty; name one that does not exist yet")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
