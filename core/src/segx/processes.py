"""What a process has to know of the others: those that share a run with it, and the one it was forked from."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Say so from the environment that ``torchrun``, or a run that started processes of its own, gives each of them.

    Without such an environment there is one process, and it is the first.
    """
    node = os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0"))
    rank = os.environ.get("RANK") or ("0" if node == "0" else "1")
    return rank == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


_began: dict[str, int] = {}


def forked_from_a_user_of(library: str) -> bool:
    """Note that a library is at work in this process; say whether it already was in the one this was forked from.

    A fork takes over the memory and one thread. A library that believes in the threads it had waits for them for ever;
    it has to do without them.
    """
    return _began.setdefault(library, os.getpid()) != os.getpid()
