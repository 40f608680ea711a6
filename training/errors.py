"""What a user gets wrong, told in one line."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line and says what and where."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for messages of libraries that explain themselves over a page."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
