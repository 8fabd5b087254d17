"""The library that hands a graph to an Edge TPU, where it is installed."""

from __future__ import annotations

import ctypes.util
import sys

_LIBRARY = {"linux": "libedgetpu.so.1", "darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}


NAME = _LIBRARY.get(sys.platform, "libedgetpu")


def library() -> str:
    """Return the name of Coral's runtime library on this system; empty where it is not installed."""
    return NAME if sys.platform in _LIBRARY and ctypes.util.find_library("edgetpu") else ""


def devices() -> list[str]:
    """Return the devices that there may be, the best first."""
    return ["cpu", *(["tpu"] if library() else [])]
