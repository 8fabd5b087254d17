"""The library that hands a graph to an Edge TPU, where it is installed."""

from __future__ import annotations

import ctypes.util
import sys

_LIBRARY = {"linux": "libedgetpu.so.1", "darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}


def library() -> str:
    """Return the name of Coral's runtime library on this system; empty where it is not installed."""
    name = _LIBRARY.get(sys.platform, "")
    return name if name and ctypes.util.find_library("edgetpu") else ""


def devices() -> list[str]:
    """Return the devices that there may be, the best first."""
    return ["cpu", *(["tpu"] if library() else [])]
