"""Settings of OpenCV, which hold for the whole process: its own threads, and what it prints."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import cv2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Setting:
    """A setting that has another value while anybody needs it so, in any thread; the last puts back what it was."""

    def __init__(self, get: Callable[[], int], put: Callable[[int], object], value: int) -> None:
        self._get, self._put, self._value = get, put, value
        self._lock = threading.Lock()
        self._needed = self._before = 0

    @contextlib.contextmanager
    def changed(self) -> Iterator[None]:
        with self._lock:
            if self._needed == 0:
                self._before = self._get()
                self._put(self._value)
            self._needed += 1
        try:
            yield
        finally:
            with self._lock:
                self._needed -= 1
                if self._needed == 0:
                    self._put(self._before)


_log: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # before and from OpenCV 5
_threads = _Setting(cv2.getNumThreads, cv2.setNumThreads, 1)
_level = _Setting(_log.getLogLevel, _log.setLogLevel, 0)


def one_thread() -> contextlib.AbstractContextManager[None]:
    """Have each call of OpenCV compute in the thread that calls it, in the whole process, until the last block ends.

    Its threads look for work for a while after each call, which takes the cores from whoever has some.
    """
    return _threads.changed()


def quiet() -> contextlib.AbstractContextManager[None]:
    """Keep OpenCV and FFmpeg from printing while something is read that may be damaged; we say it better."""
    return _level.changed()
