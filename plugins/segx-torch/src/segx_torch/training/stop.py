"""Stop on SIGINT between batches."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any, Self

logger = logging.getLogger("segx.train")


class Stop:
    """Turns the first SIGINT or SIGTERM into a request to stop between batches.

    An exception in the middle of a step would leave weights and optimiser at odds. A second Ctrl-C does raise. A signal
    that the process ignores, as a job that a script has put into the background does, stays ignored.

    Attributes:
        asked: Whether to stop.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            signals = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._on_signal) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logger.warning("stopping as soon as nothing is lost; once more to stop at once")
