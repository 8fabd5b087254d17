"""Send the library's log to standard error."""

from __future__ import annotations

import copy
import logging
import sys
from typing import TYPE_CHECKING

from segx.console import visible

if TYPE_CHECKING:
    from segx_cli.output import Output

_NAME = "segx-cli"


def listen(output: Output) -> None:
    """Send what segx and its plugins log to standard error, as much of it as is wanted, and warnings of all others."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith("segx"))
    handler.set_name(_NAME)
    root = logging.getLogger()
    for old in [item for item in root.handlers if item.get_name() == _NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if output.debug else logging.WARNING if output.quiet else logging.INFO)


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
