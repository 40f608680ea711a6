"""What a module here says when its framework is missing, or is another version than it was written for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(framework: str, extra: str) -> Iterator[None]:
    """Around the imports of a framework.

    Raises:
        ImportError: one of them failed; it names the extra that installs the versions that work."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"this needs {framework}: pip install 'wassrank[{extra}]' ({error})") from error
