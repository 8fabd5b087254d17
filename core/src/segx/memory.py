"""How much memory there is, and whether what is asked for can fit into it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from segx.errors import ModelError, UsageError

_BYTES_ON_CPU = 128
"""Bytes a pixel of network input takes at the very least on a CPU: itself as float32 RGB and as uint8, and two layers
of the smallest network; what is tight is let through."""
_BYTES_ELSEWHERE = 15
"""Where the network runs elsewhere: the input alone, as float32 and as uint8."""
_CGROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Return the bytes that this process can still take, within the limits of its container; None: not known."""
    found = [size for size in (_system(), _container()) if size is not None]
    return min(found, default=None)


def check_fits(height: int, width: int, batch: int, *, device: str = "cpu", asked: bool = True) -> None:
    """Refuse a network input that cannot fit into the memory that is there.

    Args:
        height: Of the input, in pixels.
        width: Of the input, in pixels.
        batch: Images per run.
        device: Where the network runs.
        asked: Whether the user asked for it, or the model file says so.

    Raises:
        UsageError: It cannot, and the user asked for it.
        ModelError: It cannot, and the model says so.
    """
    there = available()
    needed = height * width * max(batch, 1) * (_BYTES_ON_CPU if device == "cpu" else _BYTES_ELSEWHERE)
    if there is None or needed <= there:
        return
    of = f" and batch={batch}" if batch > 1 else ""
    msg = f"imgsz={height},{width}{of} takes {_figure(needed)} of memory at least, {_figure(there)} are there"
    raise (UsageError if asked else ModelError)(msg, hint="ask for less: imgsz=640 batch=1")


def _figure(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def _system() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):  # Windows has no sysconf
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _container() -> int | None:
    """Return what the container's limit leaves; file caches give way."""
    for limit, used, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):
            most = int((_CGROUP / limit).read_text(encoding="ascii"))  # "max" is no number: there is none
            now = int((_CGROUP / used).read_text(encoding="ascii"))
            rows = dict(line.split() for line in (_CGROUP / stat).read_text(encoding="ascii").splitlines())
            return max(most - now + int(rows.get(cache, 0)), 0)
    return None
