"""Words for people: numbers with their nouns, tables, texts in which nothing steers a terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


def plural(noun: str) -> str:
    """Return an English noun in the plural: bus, buses; epoch, epochs; the irregular ones become regular."""
    hissing = noun.endswith(("s", "x", "z", "ch", "sh")) and not noun.endswith(("poch", "mach"))
    return f"{noun}es" if hissing else f"{noun}s"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 image, 2 images."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def csv_text(columns: Collection[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV below the names of their columns; what a row lacks is left empty."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# Control characters but tab and line feed; marks that turn the direction of writing; halves of pairs, which no stream
# can write and which stand for the bytes of file names that are not UTF-8.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, *, lines: bool = True) -> str:
    r"""Return a text in which nothing steers a terminal: ``\x1b`` in place of what a terminal would obey.

    Args:
        text: May hold whatever a file, a plugin or a server says.
        lines: It may have several lines; else line feeds and tabs are written out, too.
    """
    text = _UNSEEN.sub(_written, text)
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


def _written(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as Python keeps those of file names
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
