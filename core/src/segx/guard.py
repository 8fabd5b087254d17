"""Keeps what a plugin does from taking segx down: its time, its exits and its words."""

from __future__ import annotations

import contextlib
import dis
import logging
import threading
from typing import TYPE_CHECKING, TypeVar

from segx.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that what has to be quick may take: importing a ``plugin.py``, declaring."""
LOADING_PATIENCE = 60.0
"""Seconds after which it is told that an implementation is still loading: its libraries may be large."""

_LONGEST = 400

logger = logging.getLogger(__name__)


class TooSlowError(Exception):
    """What has to be quick was not."""


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what a function returns, and raise what it raises; it may hang for ever.

    It runs in a thread of its own, so that Ctrl-C reaches who waits, and whatever it raises is its own.

    Raises:
        TooSlowError: It was not done in time; its thread is left behind and ends with the process.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=work, name="segx-plugin", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TooSlowError(f"was not done in {seconds:g} s")
    return done[0]


@contextlib.contextmanager
def watched(what: str, *, patience: float = PATIENCE) -> Iterator[None]:
    """Say what is being waited for when it takes longer than it should; it may be at work, so it goes on."""
    timer = threading.Timer(patience, logger.warning, ("%s, for more than %g s", what, patience))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def was_interrupted(error: BaseException) -> bool:
    """Say whether an error is the user's Ctrl-C, and not raised by the code that was called.

    A signal arrives between two instructions; code that raises does so with one.
    """
    if not isinstance(error, KeyboardInterrupt):
        return False
    trace = error.__traceback__
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    return dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] != "RAISE_VARARGS"


def one_line(error: BaseException) -> str:
    """Return an error as ``Class: what it says``, in one line that is not endless."""
    try:
        said = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - an error of a plugin's own making may fail here too
        said = ""
    text = visible(f"{type(error).__name__}: {said}".rstrip(": "))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."
