"""Lets what the library logs be heard by people, on standard error."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segx_cli.output import Output


def listen(output: Output) -> None:
    """Send what the library logs to standard error, as much of it as is wanted."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
    logger = logging.getLogger("segx")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if output.debug else logging.WARNING if output.quiet else logging.INFO)


class _Plain(logging.Formatter):
    """Words as they are; warnings and errors say that they are."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"segx: {record.levelname.lower()}: {text}"
