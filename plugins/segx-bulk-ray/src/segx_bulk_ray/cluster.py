"""Ray, started so that it tells nobody, leaves nothing behind and says nothing; or a cluster that is there."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx.errors import SegxError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_STORE = 256 << 20
"""Bytes of shared memory: what travels are addresses and counts."""
_PREFIX = "segx-ray-"
_ARENAS = "MALLOC_ARENA_MAX"
_LONGEST = 30
"""Characters of the folder for temporary files, with which Ray's sockets in it keep to the 107 of a socket's name."""


@contextlib.contextmanager
def joined(address: str | None, *, cpus: int) -> Iterator[bool]:
    """Have Ray for the time of the block; yields whether other machines may be part of it.

    Args:
        address: Of a cluster, ``"auto"`` for the one of this machine; None: one of our own in this process, unless the
            program has joined one.
        cpus: Of our own, how many tasks at once.

    Raises:
        UsageError: There is no cluster at the address.
    """
    ray = load()
    if ray.is_initialized():
        yield True
        return
    folder = start(address, cpus=cpus)
    try:
        yield address is not None
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def load() -> Any:
    """Import Ray, with its reports of usage off unless the user has said otherwise."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own making
        import ray  # noqa: PLC0415 - after the variable
        import ray.data  # noqa: PLC0415
    return ray


def start(address: str | None, *, cpus: int) -> Path | None:
    """Start or join Ray; return the folder that a cluster of our own writes into.

    Raises:
        UsageError: There is no cluster at the address.
        SegxError: Ray has not started: half a minute is all that it waits for its own processes.
    """
    ray = load()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if address is not None:
            try:
                with _signals_held():
                    ray.init(address=address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                said = " ".join(str(error).split())[:200]
                raise UsageError(f"address={address}: no Ray cluster: {said}", hint="ray start --head") from None
            except BaseException:
                ray.shutdown()
                raise
            folder = None
        else:
            folder = _own_folder()
            if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
                os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray writes one into the home folder
            try:
                with _few_arenas(), _signals_held():
                    ray.init(
                        address="local",
                        num_cpus=cpus,
                        include_dashboard=False,
                        configure_logging=True,
                        object_store_memory=_STORE,
                        _temp_dir=str(folder),
                        **quiet,
                    )
            except BaseException as error:
                ray.shutdown()
                shutil.rmtree(folder, ignore_errors=True)
                if not isinstance(error, Exception):
                    raise
                said = " ".join(str(error).split())[:200]
                raise SegxError(f"Ray has not started: {said}", hint="when the machine is less busy") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # we show our own
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return folder


def _own_folder() -> Path:
    """Return a new folder, short enough for the sockets in it; those of processes that were killed are removed."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > _LONGEST and os.name == "posix":
        base = Path("/tmp")  # noqa: S108 - the folder in it is ours alone
    for left in base.glob(f"{_PREFIX}*"):
        process = left.name.removeprefix(_PREFIX)
        if process.isdecimal() and not _lives(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    folder = base / f"{_PREFIX}{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier process of this number
    folder.mkdir(mode=0o700)
    return folder


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold SIGTERM and Ctrl-C back until the block ends: processes that Ray has half begun outlive it by a minute.

    A second one is not held. Ray puts handlers of its own in the place of the program's, which are put back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = {number: handler for number, handler in found.items() if handler is not None}  # those Python can put back
    held: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)
        restore()

    for number in before:
        signal.signal(number, hold)
    try:
        yield
    finally:
        restore()
        for one in held:
            signal.raise_signal(one)


@contextlib.contextmanager
def _few_arenas() -> Iterator[None]:
    """Let the processes begun meanwhile take memory from two places only, unless the user has said otherwise.

    A worker begins new threads for every shard, and glibc gives each an arena of its own, up to eight a core, which all
    grow to what one image takes: 240 MB after thousands of images instead of 174 MB from the first shard on.
    """
    given = os.environ.get(_ARENAS)
    os.environ.setdefault(_ARENAS, "2")
    try:
        yield
    finally:
        if given is None:
            del os.environ[_ARENAS]


def words_of(error: BaseException) -> SegxError:
    """Return what went wrong on a worker as an error of segx: its own, where it was one.

    Ray's error is of the class of its cause, too, but says all that it knows of the worker.
    """
    import ray.exceptions  # noqa: PLC0415 - where it runs

    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or one in seen:
            continue
        if isinstance(one, SegxError) and not isinstance(one, ray.exceptions.RayError):
            return one
        seen.append(one)
        todo += [getattr(one, "cause", None), one.__cause__, one.__context__]
    last = " ".join(str(seen[-1]).split())[-300:] or type(seen[-1]).__name__
    return SegxError(f"the workers have failed: {last}", hint="the same with resume=true goes on where it ended")
