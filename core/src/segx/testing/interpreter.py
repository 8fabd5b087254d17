"""Runs a few lines in a fresh interpreter, where nothing has been imported yet and warnings are errors."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from segx.runtime import child

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PATIENCE = 300.0
"""Seconds that it may take."""


def run_fresh(
    code: str,
    *arguments: str,
    warnings: str = "error",
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Any:
    """Run code in a new Python process and return the JSON it prints last.

    Args:
        code: Python; may be indented. ``sys.argv[1:]`` holds the arguments.
        *arguments: Given to it.
        warnings: What to do with warnings, as ``python -W`` takes it.
        env: The environment; default: :func:`environment`.
        folder: Where it runs; default: here.

    Raises:
        AssertionError: It failed; the message holds what it wrote.
    """
    words = ["-W", warnings, "-c", textwrap.dedent(code), *arguments]
    done = child.run(words, timeout=_PATIENCE, environment=env or environment(), folder=folder)
    if done.code != 0:
        raise AssertionError(f"a fresh interpreter failed ({done.code}):\n{done.stderr.strip()[-4000:]}")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None


def environment() -> dict[str, str]:
    """Return this process's environment, in which the other one finds what this one finds."""
    path = os.pathsep.join(os.path.abspath(item) for item in sys.path if item)  # noqa: PTH100 - as Python takes it
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
