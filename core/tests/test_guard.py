"""Code of plugins in threads that nobody has to wait for."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from segx.plugin.guard import Helper, TooSlowError


def test_a_call_that_is_too_slow_ends_no_other() -> None:
    """Whoever waits behind it has a thread of his own when it has been left behind."""
    helper, begun = Helper(), threading.Event()

    def hang() -> None:
        begun.set()
        while True:
            time.sleep(0.001)

    for _ in range(20):
        begun.clear()
        with ThreadPoolExecutor(1) as other:
            late = other.submit(lambda: helper.within(hang, patience=0.05))
            begun.wait()
            assert helper.within(lambda: 7, patience=5) == 7
            with pytest.raises(TooSlowError):
                late.result()
    helper.end()
