"""Where words go: results to standard output, words for people to standard error, or one JSON document."""

from __future__ import annotations

import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, kw_only=True)
class Output:
    """How this call of the command line speaks.

    Attributes:
        json: Print one JSON document instead of text.
        quiet: Say nothing to people but warnings and errors.
        debug: Show tracebacks.
    """

    json: bool = False
    quiet: bool = False
    debug: bool = False

    def result(self, text: str, document: Any) -> None:
        """Print what was asked for: the text, or the document."""
        if not self.json:
            print(text)
            return
        import json

        print(json.dumps(document, indent=2, default=_plain, ensure_ascii=False))

    def say(self, text: str) -> None:
        """Tell people something."""
        if not self.quiet:
            print(text, file=sys.stderr)


def width() -> int:
    """Return the columns to write in: those of the terminal, between 60 and 100."""
    return max(60, min(100, shutil.get_terminal_size((100, 24)).columns))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows as aligned columns; the last one is wrapped to the width of the terminal."""
    cells = [tuple(headers), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    indent = sum(widths) + 2 * len(widths)
    room = max(24, width() - indent)
    lines = []
    for row in cells:
        first = "".join(cell.ljust(size + 2) for cell, size in zip(row, widths, strict=False))
        parts = [part for line in row[-1].splitlines() for part in _wrap(line, room)] or [""]
        lines.append((first + parts[0]).rstrip())
        lines.extend(" " * indent + part for part in parts[1:])
    return "\n".join(lines)


def _wrap(text: str, room: int) -> list[str]:
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)


def _plain(value: Any) -> Any:
    """Return what JSON can hold for what it cannot: paths, arrays, sets."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset | tuple):
        return sorted(value)
    return str(value)
