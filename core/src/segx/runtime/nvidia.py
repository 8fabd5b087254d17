"""Whether a GPU of NVIDIA's can be used here, told by a look at files: nothing is imported, no driver is started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_DEVICES = ("nvidiactl", "dxg", "nvhost-gpu", "nvgpu/igpu0/ctrl")
"""What a driver leaves in ``/dev``: on a Linux machine, in WSL, on Jetson boards of two ages."""
_LIBRARY = "nvcuda.dll"


def problem(*, devices: Path = Path("/dev")) -> str:
    """Return why nothing can run on a GPU of NVIDIA's; an empty string where something probably can.

    Args:
        devices: Where the system keeps its device files.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1", "none", "NoDevFiles"}:
        return f"CUDA_VISIBLE_DEVICES={visible} hides every GPU"
    if sys.platform == "darwin":
        return "there is no driver for GPUs of NVIDIA's on macOS"
    if sys.platform == "win32":
        system = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / _LIBRARY
        return "" if system.is_file() else f"no driver for a GPU of NVIDIA's is installed: there is no {system}"
    if any((devices / name).exists() for name in _DEVICES):
        return ""
    return "no GPU of NVIDIA's is here: its driver is not loaded, or its devices are not passed into the container"
