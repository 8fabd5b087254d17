"""How much of the processors other programs take meanwhile: what is timed beside them says little."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PROC = Path("/proc")
_BUSY = (1, 2, 3, 6, 7, 8)
"""Columns of a row of ``/proc/stat``: user, nice, system, interrupts of both kinds, what other guests take."""
_USER, _SYSTEM, _PARENT = 11, 12, 1
"""Fields of ``/proc/PID/stat`` behind the name."""


class Others:
    """What other programs take of the cores of this process, from when this was made; Linux tells it."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.perf_counter(), _busy(), _own()

    def cores(self) -> float:
        """Return how many cores they have taken on average; 0 where the system does not tell."""
        busy, own, seconds = _busy(), _own(), time.perf_counter() - self._began
        return max(0.0, ((busy - self._busy) - (own - self._own)) / seconds)


def _busy() -> float:
    """Return the seconds that the processors of this process were busy since they were started."""
    if not hasattr(os, "sched_getaffinity"):
        return 0.0
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = [row.split() for row in _text(_PROC / "stat").splitlines()]
    ticks = sum(int(row[column]) for row in rows if row and row[0] in mine for column in _BUSY if column < len(row))
    return ticks / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Return the seconds of processor time that this process and all that it has started have taken."""
    taken, parents = {}, {}
    for place in _PROC.glob("[1-9]*"):
        fields = _text(place / "stat").rpartition(")")[2].split()
        if len(fields) > _SYSTEM:
            number = int(place.name)
            taken[number], parents[number] = int(fields[_USER]) + int(fields[_SYSTEM]), int(fields[_PARENT])
    ours = {os.getpid()}
    while more := {number for number, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(taken.get(number, 0) for number in ours) / os.sysconf("SC_CLK_TCK") if taken else 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:  # another system; a process that has ended since
        return ""
