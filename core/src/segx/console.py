"""What people read and watch: numbers with their nouns, whether standard error is a terminal, a bar."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tqdm import tqdm

T = TypeVar("T")


def plural(noun: str) -> str:
    """Return an English noun in the plural: bus, buses; epoch, epochs; the irregular ones become regular."""
    hissing = noun.endswith(("s", "x", "z", "ch", "sh")) and not noun.endswith(("poch", "mach"))
    return f"{noun}es" if hissing else f"{noun}s"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 image, 2 images."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


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


def watched() -> bool:
    """Return True if standard error is a terminal; a program that was started with it closed (``2>&-``) has none."""
    stream = sys.stderr
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed since
        return False


class Bar:
    """A bar on standard error, or nothing where nobody looks: ``bar(3)`` moves it on by three."""

    def __init__(self, shown: tqdm[Any] | None = None) -> None:
        self.shown = shown

    def __call__(self, count: int, **notes: str) -> None:
        """Move on, and show what is to be said beside the bar."""
        if self.shown is not None:
            if notes:
                self.shown.set_postfix(notes, refresh=False)
            self.shown.update(count)


@contextlib.contextmanager
def progress(
    total: int | None,
    name: str,
    *,
    shown: bool = True,
    anywhere: bool = False,
    unit: str = " images",
    start: int = 0,
) -> Iterator[Bar]:
    """Show a bar on standard error where that is a terminal; yields what moves it on by a number.

    Args:
        total: How many there will be, when known.
        name: What is being done.
        shown: Whether it is wanted.
        anywhere: It is wanted where standard error is no terminal, too.
        unit: What is counted; ``"B"`` are bytes, shown in thousands.
        start: How many there have been before.
    """
    if not (shown and (watched() or (anywhere and sys.stderr is not None))):
        yield Bar()
        return
    from tqdm import tqdm

    data = unit == "B"
    with tqdm(
        desc=visible(name),
        total=total,
        initial=start,
        unit=unit,
        unit_scale=data,
        unit_divisor=1024 if data else 1000,
        leave=data,
        dynamic_ncols=True,
    ) as bar:
        yield Bar(bar)


def log_handler() -> logging.Handler:
    """Return what writes the log of segx and its plugins to standard error, and warnings of all others."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith("segx"))
    return handler


@contextlib.contextmanager
def spoken(wanted: bool) -> Iterator[None]:  # noqa: FBT001 - it is what the context is about
    """Show what segx logs, as its command line does, in a program that has set up no logging of its own."""
    root = logging.getLogger()
    if not wanted or root.handlers or logging.getLogger("segx").handlers:
        yield
        return
    handler, level = log_handler(), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def each_spoken(items: Iterator[T], wanted: bool) -> Iterator[T]:  # noqa: FBT001 - as above
    """Yield the items; what is logged while one is made is shown, and nothing is changed between them."""
    try:
        while True:
            with spoken(wanted):
                item = next(items, None)
            if item is None:
                return
            yield item
    finally:
        if isinstance(items, Generator):
            with spoken(wanted):
                items.close()


class _Plain(logging.Formatter):
    """Words in which nothing steers a terminal; warnings and errors say that they are."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple) and record.msg != "%s":  # what is put into a sentence is part of its line
            record = copy.copy(record)
            record.args = tuple(map(_one_line, record.args or ()))
        text = visible(super().format(record))
        return text if record.levelno < logging.WARNING else f"segx: {record.levelname.lower()}: {text}"


def _one_line(value: object) -> object:
    """Return what is put into a sentence without line feeds; errors have lines of their own, the hint's."""
    if isinstance(value, BaseException | int | float):
        return value
    text = str(value)
    return visible(text, lines=False) if "\n" in text else value
