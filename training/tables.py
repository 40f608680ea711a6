"""Markdown tables that also read well as they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[int]) -> str:
    """The rows as a Markdown table of aligned columns: those named in `words` to the left, numbers to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    written = ["| " + " | ".join(_padded(line, widths, words)) + " |" for line in lines]
    rule = "|" + "|".join("-" * (w + 1) + ("-" if i in words else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([written[0], rule, *written[1:]])


def _padded(cells: Sequence[str], widths: Sequence[int], words: Collection[int]) -> list[str]:
    return [
        cell.ljust(width) if i in words else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
