"""Walks over protocol buffers as they lie in a file: no schema, no library, no copy of what is passed over.

Readers of model formats find their header with it, without their runtime and without reading the weights.

Source: the wire format (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

    Span = tuple[int, int]
    """First byte and the byte after the last of an embedded message."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


def fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Yield number and value of each field of a message: an integer, or where the bytes lie.

    Raises:
        ValueError: The bytes are no message, or end within a field; IndexError where the data end within a number.
    """
    position, end = span
    while position < end:
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError(f"no field begins at byte {position}")
        value: int | Span
        if wire == _VARINT:
            value, position = _varint(data, position)
        elif wire == _BYTES:
            length, position = _varint(data, position)
            value, position = (position, position + length), position + length
        elif wire in {_FIXED32, _FIXED64}:
            width = 4 if wire == _FIXED32 else 8
            value, position = int.from_bytes(data[position : position + width], "little"), position + width
        else:
            raise ValueError(f"byte {position} has wire type {wire}")
        if position > end:
            raise ValueError(f"it ends {position - end} bytes early")
        yield number, value


def span_of(value: int | Span) -> Span:
    """Return where an embedded message lies.

    Raises:
        ValueError: The field holds a number.
    """
    if isinstance(value, int):
        raise ValueError("a number lies where a message belongs")  # noqa: TRY004 - damage, not a caller's mistake
    return value


def number_of(value: int | Span) -> int:
    """Return the number that a field holds.

    Raises:
        ValueError: It holds a message.
    """
    if not isinstance(value, int):
        raise ValueError("a message lies where a number belongs")  # noqa: TRY004 - damage, not a caller's mistake
    return value


def text_at(data: mmap.mmap, span: Span) -> str:
    """Return bytes as the text that they are; UnicodeDecodeError, a ValueError, where they are none."""
    return data[span[0] : span[1]].decode("utf-8")


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError(f"the number at byte {position} does not end")
