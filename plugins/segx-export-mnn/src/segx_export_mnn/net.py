"""Two texts in an ``.mnn`` file, written in place: it is a flatbuffer, whose root holds the distance to each.

Source: MNN's schema/default/MNN.fbs (table Net).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import uuid
from typing import TYPE_CHECKING

from segx.io.flatbuffer import field_of_root, follow, span_at

if TYPE_CHECKING:
    from pathlib import Path

PLACEHOLDER = "segx"
"""What the text is until it is written: a file without one has no place for it."""

_BIZ_CODE, _UUID = 0, 11
"""Numbers of fields of ``Net``: a text of whoever made the file, and one that is drawn for each file."""


def write_text(path: Path, text: str) -> None:
    """Put a text behind the model, in place of the one that was there, and let the model's root lead to it."""
    content = text.encode()
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            field, (begin, last) = _find(data, _BIZ_CODE)
            end = len(data) if last + 4 < len(data) else begin - 4  # one that lies last is cut off
        end += -end % 4
        file.truncate(end)
        file.seek(field)
        file.write(struct.pack("<I", end - field))
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<I", len(content)) + content + bytes(4 - len(content) % 4))


def write_identity(path: Path) -> None:
    """Make of the number that MNN draws for each file one of its content: the same model gives the same bytes."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        _, (begin, end) = _find(data, _UUID)
        data[begin:end] = bytes(end - begin)
        data[begin:end] = str(uuid.UUID(hashlib.md5(data).hexdigest())).encode()  # noqa: S324 - a name


def _find(data: mmap.mmap, number: int) -> tuple[int, tuple[int, int]]:
    """Return where a field of the root is, and where its text lies."""
    field = field_of_root(data, number)
    return field, span_at(data, follow(data, field))
