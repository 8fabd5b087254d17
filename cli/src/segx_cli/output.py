"""Output of the command line: results to standard output, messages to standard error, or one JSON document."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import textwrap
from typing import TYPE_CHECKING, Any, TextIO

from segx.errors import SegxError
from segx.records import Record
from segx.words import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

OPENCV_BUILDS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")

# What JSON lets stand and a terminal obeys, or no stream can write.
_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Output(Record):
    """Output settings of this call: text, JSON, quiet.

    Attributes:
        json: Print one JSON document instead of text.
        quiet: Say nothing to people but warnings and errors.
        debug: Show tracebacks.
        stream: Where results go; default: standard output.
    """

    json: bool = False
    quiet: bool = False
    debug: bool = False
    stream: TextIO | None = None

    def result(self, text: str, document: Any) -> None:
        """Print what was asked for: the text, or the document."""
        if self.json:
            import json

            said = json.dumps(document, indent=2, default=_plain, ensure_ascii=False)
            said = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", said)
        else:
            said = visible(text)
        try:
            print(said, file=self.stream, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SegxError(f"standard output cannot be written: {error.strerror}") from error

    def say(self, text: str) -> None:
        """Print a message to standard error."""
        if not self.quiet:
            print(visible(text), file=sys.stderr)

    @contextlib.contextmanager
    def given_back(self) -> Iterator[None]:
        """Let standard output be what it was, for a command that writes to it itself."""
        if self.stream is None:
            yield
            return
        apart = isinstance(self.stream, _Apart)
        if apart:
            os.dup2(self.stream.fileno(), 1)
        try:
            with contextlib.redirect_stdout(self.stream):
                yield
            self.stream.flush()
        finally:
            if apart:
                os.dup2(2, 1)


class _Apart(io.TextIOWrapper):
    """Standard output under another number; what the process writes to number 1 goes to standard error."""


@contextlib.contextmanager
def results_apart() -> Iterator[TextIO | None]:
    """Yield standard output for results; whatever else is written to it meanwhile goes to standard error.

    Plugins, their libraries and the programs these start may print, and ``--json`` has to stay JSON. So Python's
    stream is led elsewhere, and where it is the process's own, file descriptor 1 too.
    """
    before = sys.stdout
    if before is None or sys.stderr is None:  # closed by who started the program
        yield before
        return
    for stream in (before, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what an old locale cannot write is written out, never an error
            stream.reconfigure(errors="backslashreplace")
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield stack.enter_context(_moved(before)) if _is_the_process_own(before) else before


@contextlib.contextmanager
def _moved(before: TextIO) -> Iterator[TextIO]:
    before.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    stream = _Apart(open(kept, "wb", closefd=False), before.encoding, "backslashreplace", None, before.isatty())  # noqa: SIM115 - closed below
    try:
        yield stream
    finally:
        try:
            with contextlib.suppress(OSError):  # what could not be written has been reported, or the reader is gone
                stream.close()
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _is_the_process_own(stream: TextIO) -> bool:
    try:
        return stream is sys.__stdout__ and stream.fileno() == 1 and sys.stderr.fileno() == 2
    except (OSError, ValueError):  # not a file, or closed since
        return False


def width() -> int:
    """Return the columns to write in: those of the terminal, between 60 and 100."""
    import shutil

    return max(60, min(100, shutil.get_terminal_size((100, 24)).columns))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows as aligned columns; the last one is wrapped to the width of the terminal."""
    cells = [tuple(headers), *((*(visible(cell, lines=False) for cell in row[:-1]), visible(row[-1])) for row in rows)]
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


def opencv_hint(reason: str) -> str:
    """Return what to type where OpenCV cannot be imported: it is absent, or asks for libraries of a screen."""
    if "libGL" in reason or "libgthread" in reason:
        return "pip uninstall opencv-python, then pip install --force-reinstall opencv-python-headless"
    return "pip install opencv-python, or opencv-python-headless on a machine without a screen"
