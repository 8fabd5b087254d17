"""Memory that several processes see, and values that lie in it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segx.runtime.memory import Laid, SharedMemory
from segx.structures.annotations import DatasetSource


def test_a_value_is_read_where_it_lies() -> None:
    source = DatasetSource(origin=Path("a.yaml"), split="train", entries=(Path("x"),), names={0: "ä"})
    value = {"source": source, "arrays": [np.arange(7, dtype=np.float32), np.zeros((0, 2)), np.eye(300)[::-1]]}
    laid = Laid(value)
    room = np.full(laid.size + 100, 255, np.uint8)
    laid.write(room)
    found = Laid.read(room)
    assert found["source"] == source
    for mine, other in zip(value["arrays"], found["arrays"], strict=True):
        np.testing.assert_array_equal(other, mine)
    first = found["arrays"][0]
    assert np.shares_memory(first, room)
    assert first.ctypes.data % 16 == room.ctypes.data % 16, "aligned as the room is"
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    assert (room[laid.size :] == 255).all()


def test_what_pickle_cannot_hold_is_refused() -> None:
    with pytest.raises((TypeError, AttributeError)):
        Laid(lambda: None)


@pytest.mark.skipif(os.name != "posix", reason="open files are not handed over")
def test_memory_grows_and_another_process_sees_it() -> None:
    memory = SharedMemory.new()
    small = memory.array((2,), "int64")
    small[:] = 5
    large = memory.array((3, 100_000), "uint8")
    large[2, -1] = 9
    assert small.tolist() == [5, 5]
    program = (
        "import sys; from segx.runtime.memory import SharedMemory as M\n"
        "seen = M.inherited(int(sys.argv[1])).array((3, 100_000), 'uint8')\n"
        "print(seen[0, 0], seen[2, -1]); seen[0, 0] = 6"
    )
    place = int(memory.place)
    words = [sys.executable, "-c", program, str(place)]
    done = subprocess.run(words, pass_fds=[place], capture_output=True, text=True, check=True)
    assert done.stdout == "5 9\n"
    assert small.tolist() == [6, 5]
    del memory
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(place)
    assert small.tolist() == [6, 5], "arrays in it stay"
