"""Of several processes one at a time: a lock file that the operating system frees when its holder ends, however."""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}


class Busy(Exception):  # noqa: N818 - becomes a SegxError that names what was to be done
    """Another process holds the lock."""


@contextlib.contextmanager
def holding(path: Path, *, wait: float = 0.0, waiting: str = "") -> Iterator[None]:
    """Hold a lock file.

    Args:
        path: The lock file; made when it is not there, and left.
        wait: Seconds to wait for another process.
        waiting: What to log before waiting.

    Raises:
        Busy: Another process holds it still.
        OSError: It cannot be made.
    """
    import filelock

    lock = filelock.FileLock(str(path), thread_local=False)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if not wait:
                raise
            if waiting:
                logger.info("%s", waiting)
            lock.acquire(timeout=wait, poll_interval=0.1)
    except filelock.Timeout as error:
        raise Busy(str(path)) from error
    except (NotImplementedError, OSError) as error:
        # Some network file systems have no locks: then it goes on without one.
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()
