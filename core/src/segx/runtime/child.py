"""Runs a function in a new interpreter: what it prints, imports and breaks stays there, and it may crash.

Converters print on standard output, start helpers of their own, and take memory that no later step gets back; some
runtimes end the process that another one is loaded in. So such work is done apart::

    call("segx_export_foo.convert:convert", {"source": "m.onnx", "target": "m.foo"}, what="Foo's converter")

What goes there and comes back is what JSON can hold; arrays go through files. The new interpreter searches for modules
where this one does, in the same order, and learns of it from segx alone: no variable of the environment is set for it.
It leads a process group of its own, which ends with it, and it ends when this process does, however that happens.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from segx import errors
from segx.errors import ExportError, SegxError
from segx.runtime.leftovers import new_scratch, scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)

LINES = 20
"""How many of the last lines that a child wrote are shown when it fails."""
_PATIENCE = 5.0
"""Seconds that a process has to end by itself."""
_LOOK = 0.5
"""Seconds after which a process that says nothing is looked at."""
_MAX_SAID = 1 << 20
"""Bytes of what a child wrote that are read."""
_LONGEST = 300
"""Characters of what an error says that are shown in one line."""
_MARK = b"\x1e"
"""Begins each message of a child (RFC 7464): what a library prints before it is led elsewhere is passed over."""

_BEGIN = """\
import json, sys
with open(sys.argv[1], encoding="ascii") as file:
    request = json.load(file)
sys.path[:] = request["path"]
from segx.runtime import child
child.main(request)
"""


def call(
    function: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    what: str,
    prepare: str = "",
    timeout: float | None = None,
    notify: Callable[[str, int, int | None], object] | None = None,
    environment: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
    error: type[SegxError] = ExportError,
) -> Any:
    """Return what a function returns that is run in a new interpreter.

    Args:
        function: ``"package.module:function"``; it must not be one of a script.
        arguments: Its keyword arguments, such as JSON can hold; a path arrives as text.
        what: Who does the work, for errors: ``"NNCF"``.
        prepare: ``"package.module:function"`` that is called there first of all, without arguments, before anything
            else is imported. What the installed plugins prepare is prepared after it.
        timeout: Seconds it may take; None: as long as it takes.
        notify: Called with what the function reports by :func:`notify`: a stage, how much is done, and of how much.
        environment: Variables that are set there besides those of this process.
        stop: Ends it once it is set: for a call that another thread waits for, which alone hears of Ctrl-C.
        error: Of which class the error is where the function does not raise one of segx's own.

    Raises:
        SegxError: The one that was raised there, of the same class; else one of the class ``error``, with the last
            lines that were written there as hint.
    """
    messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    with _refused(what, error):
        child = Child(function, arguments or {}, what=what, prepare=prepare, environment=environment, hear=messages.put)
    with child:
        answer = _wait(child, messages, _limits(child, timeout, stop, error), notify)
        if "result" in answer:
            child.finish()
            return answer["result"]
        raise child.failure(answer, error)


def notify(stage: str, done: int, total: int | None = None) -> None:
    """Report how far the work is; to be called by a function that runs in a child, elsewhere it does nothing.

    Args:
        stage: What is being done: ``"calibrating"``.
        done: How much of it.
        total: Of how much; None: not known.
    """
    if _parent is not None:
        _parent.send({"notify": [stage, int(done), None if total is None else int(total)]})


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; that of a signal is negative.
        stdout: What it wrote there.
        stderr: What it wrote there.
    """

    code: int
    stdout: str
    stderr: str


def run(
    words: Sequence[str],
    *,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Ended:
    """Run this interpreter with other arguments, until it ends.

    Args:
        words: What follows ``python``: ``["-c", "import cv2"]``.
        timeout: Seconds it may take.
        environment: All variables it has; default: those of this process.
        folder: Where it runs; default: here.

    Raises:
        TimeoutError: It was not done in time.
        OSError: It cannot be started.
    """
    with scratch() as place:
        out, err = place / "stdout", place / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = _start([sys.executable, *words], subprocess.DEVNULL, stdout, stderr, environment, folder=folder)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"was not done within {timeout:g} s") from error
        finally:
            _end(process)
        return Ended(code=process.returncode, stdout=_read(out), stderr=_read(err))


class Child:
    """A new interpreter at work on one function, and the messages between it and this process.

    Args:
        function: ``"package.module:function"``.
        arguments: Its keyword arguments.
        what: Who does the work, for errors.
        hear: Called with each message, in a thread of its own; with None when there will be no more. The last but
            None holds ``result`` or ``error``.
        prepare: As in :func:`call`.
        environment: As in :func:`call`.
        files: Open files that it gets under the same numbers; not on Windows.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        what: str,
        hear: Callable[[dict[str, Any] | None], object],
        prepare: str = "",
        environment: Mapping[str, str] | None = None,
        files: Sequence[int] = (),
    ) -> None:
        request = {
            "path": list(sys.path),
            "prepare": prepare,
            "function": function,
            "arguments": dict(arguments),
            "what": what,
        }
        text = json.dumps(request, default=os.fspath)  # ASCII: names that are not UTF-8 arrive as they are
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError("this program has no interpreter of its own to start")
        self.what = what
        self._owner = os.getpid()
        self._writing = threading.Lock()
        self._folder = new_scratch()
        try:
            place = self._folder / "request.json"
            place.write_text(text, encoding="ascii")
            command = [sys.executable, *_flags(), "-c", _BEGIN, str(place)]
            every = {**os.environ, **environment} if environment else None
            with (self._folder / "stderr.txt").open("wb") as stderr:
                self._process = _start(command, subprocess.PIPE, subprocess.PIPE, stderr, every, files=files)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._thread = threading.Thread(target=self._listen, args=(hear,), name="segx-child", daemon=True)
        self._thread.start()

    def send(self, message: object) -> None:
        """Send a message.

        Raises:
            OSError: It has ended.
        """
        stdin = self._process.stdin
        with self._writing:
            if stdin is None or stdin.closed:
                raise BrokenPipeError
            stdin.write(json.dumps(message).encode("ascii") + b"\n")
            stdin.flush()

    @property
    def ended(self) -> bool:
        """True if it has ended; its last message may still be on the way."""
        return self._process.poll() is not None

    def finish(self, patience: float = 2 * _PATIENCE) -> None:
        """Let it end by itself, as Python does, for some seconds."""
        if os.getpid() != self._owner:  # a fork of this process has no part in it
            return
        with contextlib.suppress(OSError):
            self.send(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)

    def end(self) -> None:
        """End it and what it has started, and take away what it leaves; harmless when done already."""
        if os.getpid() != self._owner:
            return
        _end(self._process)
        self._thread.join(_PATIENCE)  # a grandchild may hold the pipe open
        if not self._thread.is_alive():
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()
        if self._folder.exists():
            for line in self.stderr().splitlines():
                logger.debug("%s: %s", self.what, line)
            shutil.rmtree(self._folder, ignore_errors=True)

    def stderr(self) -> str:
        """Return what it has written so far, the end of it if it is much."""
        return _read(self._folder / "stderr.txt")

    def failure(self, answer: Mapping[str, Any], error: type[SegxError], *, of: str = "") -> SegxError:
        """Return the error that its last message holds, or that says how it ended.

        Args:
            answer: Its last message; empty: it ended without one.
            error: Of which class the error is where it is none of segx's own.
            of: Begins the message: the file that was worked on.
        """
        raised = answer.get("error")
        kind = getattr(errors, raised["class"], None) if raised else None
        if raised and isinstance(kind, type) and issubclass(kind, SegxError):
            return kind(raised["message"], hint=raised["hint"])
        if raised:
            how = f"failed ({raised['message']})"
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
            how = ending(self._process.returncode)
        lines = [line.rstrip() for line in self.stderr().splitlines() if line.strip()][-LINES:]
        return error(f"{of}{': ' if of else ''}{self.what} {how}", hint="\n  ".join(lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _listen(self, hear: Callable[[dict[str, Any] | None], object]) -> None:
        stdout = self._process.stdout
        with contextlib.suppress(OSError, ValueError):  # closed while it ends
            for line in stdout or ():
                if line.startswith(_MARK):
                    hear(json.loads(line[1:]))
        hear(None)


def ending(code: int | None) -> str:
    """Return how a process ended that gave no answer, of its exit code: ``"was ended by SIGSEGV"``."""
    if code is None:
        return "does not answer"
    if code >= 0:
        return f"ended with exit code {code}" if code else "ended without an answer"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (": is there enough memory?" if name == "SIGKILL" else "")


@contextlib.contextmanager
def _refused(what: str, error: type[SegxError]) -> Iterator[None]:
    """Say in segx's own words that a process cannot be started."""
    try:
        yield
    except OSError as problem:
        raise error(f"{what} cannot be started in a process of its own ({problem.strerror or problem})") from problem


def _limits(
    child: Child, timeout: float | None, stop: threading.Event | None, error: type[SegxError]
) -> Callable[[], float]:
    """Return what says for how many seconds to wait before asking it again, or raises when time is up."""
    until = None if timeout is None else time.monotonic() + timeout

    def left() -> float:
        if stop is not None and stop.is_set():
            raise error(f"{child.what} was stopped")
        seconds = _LOOK if until is None else min(_LOOK, until - time.monotonic())
        if seconds <= 0:
            raise error(f"{child.what} was not done within {timeout:g} s")
        return seconds

    return left


def _wait(
    child: Child,
    messages: queue.SimpleQueue[dict[str, Any] | None],
    left: Callable[[], float],
    listener: Callable[[str, int, int | None], object] | None,
) -> dict[str, Any]:
    """Return the answer of a child; empty: it ended without one."""
    ended = False
    while True:
        try:
            message = messages.get(timeout=left())
        except queue.Empty:
            if ended:  # what it has started holds the pipe open, and nothing more will come
                return {}
            ended = child.ended
            continue
        if message is None:
            return {}
        if "notify" not in message:
            return message
        if listener is not None:
            listener(*message["notify"])


def _flags() -> list[str]:
    """Return the flags that this interpreter was started with, as far as they say what the other one may look at."""
    flags = sys.flags
    wanted = {
        "-P": True,  # the folder it is started in is no place to look for modules
        "-I": flags.isolated,
        "-E": flags.ignore_environment,
        "-s": flags.no_user_site,
        "-B": sys.dont_write_bytecode,
        "-Xutf8": flags.utf8_mode,
    }
    return [flag for flag, on in wanted.items() if on]


def _start(
    command: Sequence[str],
    stdin: int,
    stdout: IO[bytes] | int,
    stderr: IO[bytes],
    environment: Mapping[str, str] | None,
    *,
    folder: Path | None = None,
    files: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process that leads a group of its own: Ctrl-C is for this process, which ends the others."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        cwd=folder,
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        pass_fds=tuple(files),
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: asked first, then not asked."""
    try:
        if process.poll() is None:
            _signal_group(process.pid, signal.SIGTERM, process.terminate)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
    finally:  # Ctrl-C again
        if process.poll() is None:
            process.kill()
        process.wait()
        _signal_group(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM), lambda: None)


def _signal_group(leader: int, number: int, otherwise: Callable[[], object]) -> None:
    """Send a signal to what is left of a process's group."""
    if not hasattr(os, "killpg"):
        otherwise()
        return
    with contextlib.suppress(OSError):
        os.killpg(leader, number)


def _read(file: Path) -> str:
    """Return the end of a text file of any encoding; nothing where it cannot be read."""
    try:
        with file.open("rb") as content:
            content.seek(max(0, content.seek(0, os.SEEK_END) - _MAX_SAID))
            return content.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


# In the child


class Parent:
    """The process that started this one.

    Args:
        folder: Where the two keep what they write; goes when the parent has ended.
    """

    def __init__(self, folder: Path) -> None:
        # Nobody else may read or write here, so both pipes get other numbers, which no process inherits.
        self._read, self._write = os.dup(0), os.dup(1)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        os.dup2(2, 1)
        self._folder = folder
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="segx-parent", daemon=True).start()

    def send(self, message: object) -> None:
        """Send it a message, such as JSON can hold; harmless when it has ended."""
        line = memoryview(_MARK + json.dumps(message, default=os.fspath).encode("ascii") + b"\n")
        with self._lock, contextlib.suppress(OSError):
            while line:
                line = line[os.write(self._write, line) :]

    def messages(self) -> Iterator[Any]:
        """Yield what it sends until it wants no more; may be gone through by several threads."""
        while (message := self._inbox.get()) is not None:
            yield message
        self._inbox.put(None)  # for the other threads

    def _listen(self) -> None:
        dismissed = False
        with contextlib.suppress(OSError, ValueError), os.fdopen(self._read, "rb") as lines:
            for line in lines:
                message = json.loads(line)
                self._inbox.put(message)
                dismissed = message is None
        if dismissed:
            time.sleep(2 * _PATIENCE)  # this process is closing what it holds
        self._leave()

    def _leave(self) -> None:
        """End this process and what it has started: nobody is left to hear of it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


_parent: Parent | None = None


def parent() -> Parent:
    """Return the process that this one works for.

    Raises:
        RuntimeError: This one works for nobody.
    """
    if _parent is None:
        raise RuntimeError("this process is no child of segx")
    return _parent


def main(request: Mapping[str, Any]) -> None:
    """Do what a parent has asked for; the first thing that a child runs."""
    global _parent  # noqa: PLW0603 - there is one
    _parent = Parent(Path(sys.argv[1]).parent)
    sys.argv[:] = [request["what"]]
    for stream in (sys.stdout, sys.stderr):
        # What was written is there if it crashes.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    try:
        result = _work(request)
        _parent.send({"result": result})
    except Exception as error:  # noqa: BLE001 - a converter's may be of any class
        _parent.send({"error": described(error)})


def described(error: Exception) -> dict[str, str]:
    """Return an error as a message holds it; the traceback of one that is not segx's own is among what is said."""
    if isinstance(error, SegxError):
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return {"class": kind, "message": error.message, "hint": error.hint}
    import traceback

    traceback.print_exception(error)
    said = " ".join(str(error).split())[:_LONGEST]
    return {"class": "", "message": f"{type(error).__name__}: {said}".rstrip(": "), "hint": ""}


def _work(request: Mapping[str, Any]) -> Any:
    from segx.runtime import take_process

    take_process()
    if request["prepare"]:
        _named(request["prepare"])()
    # What lies above this module is named by text: it is loaded for the work, and is nothing this module stands on.
    _named("segx.plugin.registry:get_registry")().prepare()
    return _named(request["function"])(**request["arguments"])


def _named(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
