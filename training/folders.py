"""Results appear whole or not at all: a folder is filled under a temporary name and renamed at the end."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import InputError


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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
    try:
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
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
    try:
        yield staging / target.name
        os.replace(staging / target.name, target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(staging)


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
