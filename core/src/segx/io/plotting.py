"""Imports matplotlib, which looks around when it is imported, so that it finds and leaves nothing of the user's."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from segx.io.paths import matplotlib_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

_importing = threading.Lock()


def load_matplotlib() -> Any:
    """Return matplotlib: the one that is imported already, or one that keeps its font index in segx's cache.

    Charts are drawn into files, so an ``MPLBACKEND`` that this matplotlib does not know, which would keep it from being
    imported at all, is left for whoever opens a window. The environment is afterwards what it was.

    Raises:
        ImportError: It is not installed.
    """
    with _importing:
        if "matplotlib" not in sys.modules:
            with _environment(MPLCONFIGDIR=str(matplotlib_folder())):
                import matplotlib as mpl

                mpl.get_cachedir()  # asked once, and remembered
            with contextlib.suppress(ValueError, KeyError):
                mpl.rcParams["backend"] = os.environ["MPLBACKEND"]
        return sys.modules["matplotlib"]


@contextlib.contextmanager
def _environment(**wanted: str) -> Iterator[None]:
    """Have variables set, and ``MPLBACKEND`` not, for as long as it takes."""
    names = ("MPLBACKEND", *wanted)
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.pop("MPLBACKEND", None)
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
