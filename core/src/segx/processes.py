"""Whether this is the first of the processes that share a run: it alone speaks, writes and draws."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Say so from the environment that ``torchrun``, or a run that started processes of its own, gives each of them.

    Without such an environment there is one process, and it is the first.
    """
    node = os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0"))
    rank = os.environ.get("RANK") or ("0" if node == "0" else "1")
    return rank == "0" and os.environ.get("LOCAL_RANK", "0") == "0"
