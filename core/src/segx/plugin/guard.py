"""Keeps what a plugin does from taking segx down: its time, its exits and its words."""

from __future__ import annotations

import contextlib
import dis
import logging
import os
import queue
import signal
import threading
from typing import TYPE_CHECKING, TypeVar

from segx.words import visible

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that what has to be quick may take: importing a ``plugin.py``, declaring."""
LOADING_PATIENCE = 60.0
"""Seconds after which a line says that an implementation is still loading: its libraries may be large."""

HEARING_PATIENCE = 30.0
"""Seconds after which segx goes on without a plugin that is told something, or asked whether it can be used."""

_LONGEST = 400
_SLOW = "%s, for more than %g s"

logger = logging.getLogger(__name__)
_here = threading.local()


class TooSlowError(Exception):
    """What has to be quick was not."""


class Helper:
    """A thread in which plugins' code runs, that who waits for it can go on without it.

    It stays the same thread while all is done in time, as much of what a plugin may open asks for (SQLite). Ctrl-C
    reaches who waits, and whatever is raised is the plugin's own.
    """

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[Callable[[], None] | None] | None = None
        self._owner = 0
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def within(self, function: Callable[[], T], *, patience: float | None = None, what: str = "") -> T:
        """Return what a function returns, and raise what it raises; it may hang for ever.

        What it calls of segx may come back here, and is then done at once: nobody can wait for who waits for him.

        Args:
            function: What is called.
            patience: Seconds it may take; default: :data:`HEARING_PATIENCE`.
            what: What is said to be waited for, when it takes longer than :data:`PATIENCE`; empty: nothing is said.

        Raises:
            TooSlowError: It was not done in time; its thread is left behind, and ends when it next computes.
        """
        if getattr(_here, "helping", False):
            return function()
        patience = HEARING_PATIENCE if patience is None else patience
        done: list[T] = []
        failed: list[BaseException] = []
        answered = threading.Event()

        def work() -> None:
            try:
                done.append(function())
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                failed.append(error)
            answered.set()

        # Who waits takes his turn first: what ends one call must not end another that waits behind it.
        if not _in_time(lambda seconds: self._turn.acquire(timeout=seconds), patience, what):
            raise TooSlowError(f"was not done in {patience:g} s")
        try:
            self._ask(work, answered, patience, what)
        finally:
            self._turn.release()
        if failed:
            raise failed[0]
        return done[0]

    def _ask(self, work: Callable[[], None], answered: threading.Event, patience: float, what: str) -> None:
        with self._lock:
            if self._asked is None or self._owner != os.getpid():  # threads stay behind when a process forks
                self._asked, self._owner = queue.SimpleQueue(), os.getpid()
                self._thread = threading.Thread(target=_help, args=(self._asked,), name="segx-plugin", daemon=True)
                self._thread.start()
            thread = self._thread
            self._asked.put(work)
        if not _in_time(answered.wait, patience, what):
            _end(thread)
            self.end()
            raise TooSlowError(f"was not done in {patience:g} s")

    def end(self) -> None:
        """Let the thread end when it has done what it was given; another one begins when something more is asked."""
        with self._lock:
            if self._asked is not None:
                self._asked.put(None)
            self._asked = None


def within(function: Callable[[], T]) -> T:
    """Return what a function returns that no other call has to do with: :meth:`Helper.within`."""
    helper = Helper()
    try:
        return helper.within(function)
    finally:
        helper.end()


def _in_time(wait: Callable[[float], bool], patience: float, what: str) -> bool:
    """Wait for so many seconds at most, and say so once it takes longer than it should."""
    unsaid = min(PATIENCE, patience)
    if wait(unsaid):
        return True
    if what and unsaid < patience:
        logger.warning(_SLOW, what, unsaid)
    return wait(patience - unsaid)


def _help(asked: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    _here.helping = True
    while (work := asked.get()) is not None:
        work()


def _end(thread: threading.Thread) -> None:
    """Ask a thread to end, so that one that computes for ever takes no time from the others; one that waits stays."""
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))


@contextlib.contextmanager
def watched(what: str, *, patience: float | None = None) -> Iterator[None]:
    """Say what is being waited for when it takes longer than it should; it may be at work, so it goes on."""
    patience = PATIENCE if patience is None else patience
    timer = threading.Timer(patience, logger.warning, (_SLOW, what, patience))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def was_interrupted(error: BaseException) -> bool:
    """Return True if an error is the user's Ctrl-C or SIGTERM, and not raised by the code that was called.

    A signal arrives between two instructions, or has a handler that raises; other code raises with an instruction.
    """
    if not isinstance(error, KeyboardInterrupt):
        return False
    if getattr(error, "asked_for", False):  # the command line's, which SIGTERM raises
        return True
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
