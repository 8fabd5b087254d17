"""Names of what is being written, and removing what a killed process left of it.

A process that is killed (``SIGKILL``, out of memory) cannot remove its temporary files and folders. Their names say who
writes: ``.segx-<machine>-<boot>-<process>-<random><suffix>``. Whoever writes into the same folder later removes those
whose process is gone, where they are this user's own. What cannot be told, such as a file from another machine on a
shared disk, stays.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = ".segx-"
"""How every temporary name starts, those of earlier versions too."""

_LONGEST = 10
"""Digits of a process number."""
_swept: set[str] = set()
_lock = threading.Lock()


def temporary_name(suffix: str = "") -> str:
    """Return a name that no other has, that says which process writes it."""
    machine, boot = _here()
    return f"{PREFIX}{machine}-{boot}-{os.getpid()}-{os.urandom(8).hex()}{suffix}"


def sweep(folder: Path) -> None:
    """Remove from a folder what processes that are gone left under temporary names; done once a folder and process.

    Nothing is followed: a link is removed, not what it leads to. What cannot be removed stays, without an error.
    """
    place = str(folder.absolute())
    with _lock:
        if place in _swept:
            return
        _swept.add(place)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if is_left(entry.name)]:
            _remove(Path(entry.path))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder of this process's own in the system's temporary folder, which is removed when the block ends."""
    import shutil

    folder = new_scratch()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_scratch() -> Path:
    """Make a folder in the system's temporary folder that only this user may look into, and return it.

    What processes that were killed left there is removed first.

    Raises:
        OSError: It cannot be made.
    """
    import tempfile

    place = Path(tempfile.gettempdir())
    sweep(place)
    folder = place / temporary_name()
    folder.mkdir(mode=0o700)
    return folder


def is_left(name: str) -> bool:
    """Return True if a name is a temporary one of this machine and its process is certainly gone."""
    parts = name.removeprefix(PREFIX).split("-", 3)
    if not name.startswith(PREFIX) or len(parts) != 4:
        return False
    machine, boot = _here()
    process = parts[2]
    if not machine.strip("0") or parts[0] != machine or not (process.isascii() and process.isdecimal()):
        return False
    return len(process) <= _LONGEST and (parts[1] != boot or not _lives(int(process)))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        state = path.lstat()
        if hasattr(os, "getuid") and state.st_uid != os.getuid():  # who shares a folder looks after theirs
            return
        if stat.S_ISDIR(state.st_mode):
            import shutil

            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _lives(process: int) -> bool:
    """Return False if there is certainly no such process."""
    if os.name != "posix":  # elsewhere os.kill ends the process that it is asked about
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's, or the system does not say
        return True
    return True


@functools.cache
def _here() -> tuple[str, str]:
    """Return marks of this machine and of its last start; zeros for a machine that cannot be told from others.

    A container is a machine of its own: it sees other processes under the same numbers.
    """
    parts = [_read("/etc/machine-id"), os.uname().nodename if hasattr(os, "uname") else ""]
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - no path, a mark
    boot = _read("/proc/sys/kernel/random/boot_id")
    # Without a mark of the start a process number of before it would pass for a live one, which only keeps a file;
    # without the others a number of another machine might pass for a dead one.
    known = len(parts) == 3 and all(parts[1:]) and bool(boot)
    if not known:
        return "0" * 8, "0" * 8
    if not parts[0]:  # containers have none: then the start is part of who they are
        parts.append(boot)
    return _mark(*parts), _mark(boot)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _mark(*parts: str) -> str:
    return f"{zlib.crc32(chr(0).join(parts).encode('utf-8', 'replace')):08x}"  # hashlib takes 10 ms to import
