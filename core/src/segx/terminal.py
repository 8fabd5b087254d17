"""Whether anyone watches: standard error may be a terminal, a file, closed, or not there at all."""

from __future__ import annotations

import sys


def watched() -> bool:
    """Say whether standard error is a terminal; a program that was started with it closed (``2>&-``) has none."""
    stream = sys.stderr
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed since
        return False
