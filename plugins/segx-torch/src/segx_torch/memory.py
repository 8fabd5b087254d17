"""The C library's memory while a model trains or predicts on a CPU: what one batch gives back, the next one uses."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING, Any

from segx.runtime import process_taken

if TYPE_CHECKING:
    from collections.abc import Iterator

# names of mallopt's manual page
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_NEVER = -1
_DEFAULT_MMAP_MAX = 65536
_SETTINGS = ("mmap_max", "mmap_threshold", "trim_threshold", "top_pad")
_LARGEST_MMAP_THRESHOLD = 32 << 20  # where glibc's own, which grows with use, ends on 64-bit machines


@contextlib.contextmanager
def retain_heap() -> Iterator[None]:
    """Have glibc keep the memory that is freed, and hand it back to the system at the end.

    Activations of a batch are tens of megabytes each. glibc asks the system for each of them anew, which clears every
    page of it: about 40 % of the time of a step of YOLOv8n at 640 pixels. Nothing is done with another C library,
    where the environment sets when memory goes back to the system, or in a process that is not segx's own
    (:func:`segx.runtime.take_process`).
    """
    library = _ours()
    if library is None:
        yield
        return
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        _enlarge(library)
        library.malloc_trim(0)


def enlarge_heap() -> None:
    """Have glibc keep up to 64 MB of freed memory for each thread, as it comes to do by itself for larger arrays.

    A map of YOLOv8n at 640 pixels is 7 MB, and what is freed above twice as much goes back to the system: up to 3,900
    page faults an image, a fourteenth of its time. Nothing is done where :func:`retain_heap` does nothing.
    """
    library = _ours()
    if library is not None:
        _enlarge(library)


def _enlarge(library: Any) -> None:
    library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    library.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
    library.mallopt(_M_TOP_PAD, 2 * _LARGEST_MMAP_THRESHOLD)  # else what a thread has gone beyond 64 MB by goes back


def _ours() -> Any:
    """Return the C library if it is glibc, and segx is to tune it."""
    library = _glibc()
    return None if library is None or _set_by_user() or not process_taken() else library


def _glibc() -> Any:
    """Return the C library if it is glibc."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no library of that name
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None


def _set_by_user() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return any(f"malloc.{name}=" in tunables or f"MALLOC_{name.upper()}_" in os.environ for name in _SETTINGS)
