"""What people watch: whether standard error is a terminal, a bar, a logger's plain lines."""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

from segx.words import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tqdm import tqdm

T = TypeVar("T")


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


@contextlib.contextmanager
def quieted(*names: str, below: int = logging.WARNING) -> Iterator[None]:
    """Hear nothing below a level of some loggers of segx for a while: what they do is part of something else."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(below)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


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
