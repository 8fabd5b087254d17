"""OpenCV's own threads, kept out of the way where several images are worked on side by side."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import cv2

if TYPE_CHECKING:
    from collections.abc import Iterator

_lock = threading.Lock()
_state = {"depth": 0, "threads": 0}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have each call of OpenCV compute in the thread that calls it, in the whole process, until the last block ends.

    Its threads look for work for a while after each call, which takes the cores from whoever has some.
    """
    with _lock:
        if _state["depth"] == 0:
            _state["threads"] = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _state["depth"] += 1
    try:
        yield
    finally:
        with _lock:
            _state["depth"] -= 1
            if _state["depth"] == 0:
                cv2.setNumThreads(_state["threads"])
