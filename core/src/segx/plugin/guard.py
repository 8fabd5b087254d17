"""Keeps what a plugin does from taking segx down: its time, its exits and its words."""

from __future__ import annotations

import contextlib
import dis
import logging
import queue
import signal
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from segx.words import visible

if TYPE_CHECKING:
    import types
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


class Helper:
    """A thread that does one thing after another for who waits, so that Ctrl-C reaches who waits.

    One serves all: starting a thread takes longer than most plugins take to declare what they have.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._asked: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def within(self, seconds: float, function: Callable[[], T]) -> T:
        """Return what a function returns, and raise what it raises; it may hang for ever.

        Raises:
            TooSlowError: It was not done in time; its thread is left behind, and ends when it next computes.
        """
        if self._thread is None:
            self._asked, self._answers = queue.SimpleQueue(), queue.SimpleQueue()
            self._thread = threading.Thread(
                target=_serve, args=(self._asked, self._answers), name="segx-plugin", daemon=True
            )
            self._thread.start()
        self._asked.put(function)
        try:
            answer, error = self._answers.get(timeout=seconds)
        except queue.Empty:
            _end(self._thread)
            self.close()
            raise TooSlowError(f"was not done in {seconds:g} s") from None
        except BaseException:
            self.close()  # what it answers now, nobody waits for
            raise
        if error is not None:
            raise error
        found: T = answer
        return found

    def close(self) -> None:
        """Let the thread end when it has done what it does; the next call starts another."""
        self._asked.put(None)
        self._thread = None


def _serve(
    asked: queue.SimpleQueue[Callable[[], Any] | None], answers: queue.SimpleQueue[tuple[Any, BaseException | None]]
) -> None:
    for function in iter(asked.get, None):
        try:
            answers.put((function(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            answers.put((None, error))


def _end(thread: threading.Thread) -> None:
    """Ask a thread to end, so that one that computes for ever takes no time from the others; one that waits stays."""
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))


@contextlib.contextmanager
def watched(what: str, *, patience: float | None = None) -> Iterator[None]:
    """Say what is being waited for when it takes longer than it should; it may be at work, so it goes on."""
    patience = PATIENCE if patience is None else patience
    timer = threading.Timer(patience, logger.warning, ("%s, for more than %g s", what, patience))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def was_interrupted(error: BaseException) -> bool:
    """Return True if an error is the user's Ctrl-C, and not raised by the code that was called.

    A signal arrives between two instructions, or has a handler that raises; other code raises with an instruction.
    """
    if not isinstance(error, KeyboardInterrupt):
        return False
    handler = signal.getsignal(signal.SIGINT)
    handlers_code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    last: types.TracebackType | None = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is handlers_code:
            return True
        last, trace = trace, trace.tb_next
    return last is None or dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] != "RAISE_VARARGS"


def one_line(error: BaseException) -> str:
    """Return an error as ``Class: what it says``, in one line that is not endless."""
    try:
        said = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - an error of a plugin's own making may fail here too
        said = ""
    text = visible(f"{type(error).__name__}: {said}".rstrip(": "))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."
