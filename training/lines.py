"""Reads text files a line at a time, and refuses a broken one naming file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.errors import InputError, first_line


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line number, from 1, and the line as it lies in the file, its end included.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield from enumerate(file, start=1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number, from 1, and the line without its end.

    Raises:
        InputError: the file cannot be read, or a line is not UTF-8.
    """
    for number, line in raw_lines(path):
        yield number, decoded(line, path, number).rstrip("\r\n")


def decoded(line: bytes, path: Path, number: int) -> str:
    """The line as text, or InputError. Line by line, so that the error can name the line."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{number}: not UTF-8") from error


def json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`file:line` and the object of each line of a .jsonl file.

    Raises:
        InputError: the file cannot be read, or a line is no JSON object.
    """
    for number, line in numbered_lines(path):
        yield f"{path}:{number}", json_object(line, path, number)


def json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    """The object that a line holds, or InputError."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of more than 4300 digits, a thousand brackets
        raise InputError(f"{path}:{number}: JSON that Python cannot hold: {first_line(error)}") from error
    if not isinstance(record, dict):
        raise InputError(f"{path}:{number}: expected a JSON object, got {type(record).__name__}")
    if "\\ud" in line or "\\uD" in line:  # a surrogate: JSON may hold half of a pair, which no tokenizer takes
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{path}:{number}: holds half of a surrogate pair, which is no character") from error
    return record
