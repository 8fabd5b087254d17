"""Walks over flatbuffers as they lie in a file: no schema, no library, and nothing read but what is asked for.

Source: the binary format (flatbuffers.dev, internals).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap


def field_of_root(data: mmap.mmap, number: int) -> int:
    """Return where a field of the root lies; 0: the file has it not.

    Raises:
        struct.error: The data end before.
    """
    root = follow(data, 0)
    table = root - int(struct.unpack_from("<i", data, root)[0])
    (size,) = struct.unpack_from("<H", data, table)
    distance = int(struct.unpack_from("<H", data, table + 4 + 2 * number)[0]) if 4 + 2 * number < size else 0
    return root + distance if distance else 0


def follow(data: mmap.mmap, place: int) -> int:
    """Return where what a field leads to begins; a field holds the distance.

    Raises:
        struct.error: The data end before.
    """
    return place + int(struct.unpack_from("<I", data, place)[0])


def span_at(data: mmap.mmap, begin: int) -> tuple[int, int]:
    """Return first and last of a text's or vector's bytes, behind the number of them that it begins with.

    Raises:
        ValueError: It does not lie in the file; struct.error likewise.
    """
    (length,) = struct.unpack_from("<I", data, begin)
    if begin + 4 + length > len(data):
        raise ValueError("it ends early")
    return begin + 4, begin + 4 + int(length)
