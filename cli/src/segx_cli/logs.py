"""Send the library's log to standard error."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from segx.console import log_handler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segx_cli.output import Output


@contextlib.contextmanager
def listening(output: Output) -> Iterator[None]:
    """Send what segx and its plugins log to standard error, as much of it as is wanted, and warnings of all others.

    Afterwards logging is as it was: who runs a command line within a program has streams of its own.
    """
    root, handler = logging.getLogger(), log_handler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if output.debug else logging.WARNING if output.quiet else logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
