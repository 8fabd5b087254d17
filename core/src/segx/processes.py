"""What a process has to know of the others: those that share a run with it, and the one it was forked from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def is_first_process() -> bool:
    """Say so from the environment that ``torchrun``, or a run that started processes of its own, gives each of them.

    Without such an environment there is one process, and it is the first.
    """
    node = os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0"))
    rank = os.environ.get("RANK") or ("0" if node == "0" else "1")
    return rank == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


_guarded: set[str] = set()
_forked: set[str] = set()


def guard_forks(library: str, go_alone: Callable[[], object]) -> None:
    """Have a library do without its threads in every process that is forked from this one from now on.

    A fork takes over the memory and one thread. A library that believes in the threads it had waits for them for ever.

    Args:
        library: Its name; guarded once.
        go_alone: Called in the new process: tells the library to use no other threads.
    """
    if library in _guarded or not hasattr(os, "register_at_fork"):
        return
    _guarded.add(library)

    def begin() -> None:
        _forked.add(library)
        go_alone()

    os.register_at_fork(after_in_child=begin)


def forked_from_a_user_of(library: str) -> bool:
    """Say whether a guarded library was in use in the process that this one was forked from."""
    return library in _forked
