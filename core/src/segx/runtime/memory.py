"""Memory that several processes see, in files without a name."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import pickle
import struct
import sys
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import DTypeLike, NDArray


class SharedMemory:
    """Bytes that two processes see, in a file without a name: it grows, and is gone when nobody holds it any more.

    Shared memory with a name would not do: it stays behind after a crash, and lies where containers leave 64 MB.
    Pages that nobody has touched take no memory.

    Args:
        place: The open file; on Windows, which hands over none, its path.
    """

    def __init__(self, place: int | str) -> None:
        self.place = place
        self.file = (
            place
            if isinstance(place, int)
            else os.open(place, os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_TEMPORARY", 0))
        )
        self._map: mmap.mmap | None = None
        weakref.finalize(self, _let_go, self.file)

    @classmethod
    def new(cls) -> SharedMemory:
        """Return memory of no size yet."""
        if sys.platform == "win32":
            file, path = tempfile.mkstemp(prefix="segx-")
            os.close(file)
            memory = cls(path)
            weakref.finalize(memory, _let_go, path)
            return memory
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("segx")
        else:
            with tempfile.TemporaryFile() as unnamed:
                file = os.dup(unnamed.fileno())
        import fcntl

        memory = cls(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 3))  # the first three are the other process's streams
        os.close(file)
        return memory

    @classmethod
    def inherited(cls, place: int | str) -> SharedMemory:
        """Return what the process that started this one has made; what this one starts does not get it."""
        if isinstance(place, int):
            os.set_inheritable(place, False)
        return cls(place)

    def bytes(self, size: int) -> NDArray[np.uint8]:
        """Return the first bytes."""
        import numpy as np

        wanted = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._map is None or len(self._map) < wanted:
            if os.fstat(self.file).st_size < wanted:
                os.ftruncate(self.file, wanted)
            self._map = mmap.mmap(self.file, wanted)  # arrays in the old one keep it
        return np.frombuffer(self._map, np.uint8, count=size)

    def array(self, shape: Sequence[int], dtype: DTypeLike = "float32") -> NDArray[Any]:
        """Return the first bytes as numbers."""
        import numpy as np

        return self.bytes(np.dtype(dtype).itemsize * math.prod(shape)).view(dtype).reshape(shape)


def _let_go(place: int | str) -> None:
    with contextlib.suppress(OSError):
        if isinstance(place, int):
            os.close(place)
        else:
            Path(place).unlink()


_ALIGNED = 64
"""Arrays begin at multiples of so many bytes."""


class Laid:
    """A value as it is laid into shared memory: arrays lie there as they are, and are not copied to be read.

    Args:
        value: What pickle can hold.
    """

    def __init__(self, value: object) -> None:
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        self._pieces = [memoryview(head), *(buffer.raw() for buffer in buffers)]
        sizes = [len(piece) for piece in self._pieces]
        self._table = struct.pack(f"<{len(sizes) + 1}q", len(sizes), *sizes)
        self._begins = _begins(sizes)
        self.size: int = self._begins[-1]

    def write(self, room: NDArray[np.uint8]) -> None:
        """Write it into uint8 (at least ``size``,)."""
        room[: len(self._table)] = memoryview(self._table)
        for begin, piece in zip(self._begins[:-1], self._pieces, strict=True):
            room[begin : begin + len(piece)] = piece

    @staticmethod
    def read(room: NDArray[np.uint8]) -> Any:
        """Return the value that lies in a room; its arrays are views that nobody can write to."""
        still = room.data.toreadonly()
        (count,) = struct.unpack_from("<q", still)
        sizes = struct.unpack_from(f"<{count}q", still, 8)
        head, *buffers = (still[begin : begin + size] for begin, size in zip(_begins(sizes), sizes, strict=False))
        return pickle.loads(head, buffers=buffers)  # noqa: S301 - written by this process or by one that it started


def _begins(sizes: Sequence[int]) -> list[int]:
    """Return where the pieces of a value begin, and where the last one ends."""
    begins, end = [], 8 * (len(sizes) + 1)
    for size in sizes:
        begin = -(-end // _ALIGNED) * _ALIGNED
        begins.append(begin)
        end = begin + size
    return [*begins, end]
