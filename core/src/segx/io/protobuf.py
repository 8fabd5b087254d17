"""Reads protocol buffers as they lie in a file, and writes them: numbered fields, without a schema or a library.

Readers of model formats find their header with it, without their runtime and without reading the weights.

Source: the wire format (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import mmap
from collections import defaultdict
from typing import TYPE_CHECKING, Self

from segx.io.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


class Message:
    """One message: its fields by number, each as often as it occurs; what lies deeper is read when it is asked for.

    Args:
        content: The bytes.

    Raises:
        ValueError: They are no message.
    """

    def __init__(self, content: memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = defaultdict(list)
        for number, value in _fields(content):
            self._fields[number].append(value)

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the message that a file is; it is mapped, not read, as long as a part of the message is held.

        Raises:
            OSError: The file is missing, or is none.
            ValueError: It is empty, cut short, or no message.
        """
        with open_regular(path) as file:
            return cls(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def fields(self, *, but: Collection[int] = ()) -> Iterator[tuple[int, int | memoryview]]:
        """Yield number and value of each field, those of a number together, all but those of some."""
        return ((number, value) for number, values in self._fields.items() if number not in but for value in values)

    def integer(self, number: int, default: int = 0) -> int:
        """Return an integer: the last one, as protocol buffers have it."""
        value = self._fields.get(number, [default])[-1]
        if isinstance(value, int):
            return value
        raise ValueError(f"field {number} is no number")

    def integers(self, number: int) -> list[int]:
        """Return repeated integers, packed together or one by one."""
        found: list[int] = []
        for value in self._fields.get(number, []):
            found += [value] if isinstance(value, int) else _packed(value)
        return found

    def raw(self, number: int) -> list[memoryview]:
        """Return the bytes of every field of a number."""
        found = self._fields.get(number, [])
        views = [value for value in found if isinstance(value, memoryview)]
        if len(views) != len(found):
            raise ValueError(f"field {number} holds numbers")
        return views

    def texts(self, number: int) -> list[str]:
        """Return every field of a number as text; UnicodeDecodeError, a ValueError, where it is none."""
        return [str(value, "utf-8") for value in self.raw(number)]

    def text(self, number: int) -> str:
        """Return the last field of a number as text; an empty one where there is none."""
        return (self.texts(number) or [""])[-1]

    def messages(self, number: int) -> list[Message]:
        """Return every field of a number as a message."""
        return [Message(value) for value in self.raw(number)]

    def message(self, number: int) -> Message:
        """Return a message that occurs once: where it occurs in parts, all of them together."""
        parts = self.raw(number)
        return Message(parts[0] if len(parts) == 1 else memoryview(b"".join(parts)))

    def entries(self, number: int) -> dict[str, Message]:
        """Return a mapping of names to messages."""
        return {entry.text(1): entry.message(2) for entry in self.messages(number)}


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field; fixed numbers come as their bytes."""
    place, end = 0, len(content)
    while place < end:
        key, place = _varint(content, place)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError(f"no field begins at byte {place}")
        if kind == _VARINT:
            value, place = _varint(content, place)
            yield number, value
            continue
        if kind == _BYTES:
            length, place = _varint(content, place)
        elif kind in {_FOUR, _EIGHT}:
            length = 4 if kind == _FOUR else 8
        else:
            raise ValueError(f"field {number} has wire type {kind}")
        if length > end - place:
            raise ValueError(f"it ends {length - end + place} bytes early")
        yield number, content[place : place + length]
        place += length


def written(fields: Iterable[tuple[int, int | bytes | memoryview]]) -> Iterator[bytes | memoryview]:
    """Yield the pieces of a message: integers, and whatever else a field holds by its length.

    Fixed numbers, of 4 and 8 bytes, are not told apart from texts of as many bytes: no message with such fields is
    written from those that :class:`Message` has read.
    """
    for number, value in fields:
        if isinstance(value, int):
            yield _as_varint(number << 3 | _VARINT) + _as_varint(value)
        else:
            yield from begun(number, len(value))
            yield value


def begun(number: int, length: int) -> Iterator[bytes]:
    """Yield what stands before a field of so many bytes."""
    yield _as_varint(number << 3 | _BYTES)
    yield _as_varint(length)


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def signed(values: Sequence[int]) -> list[int]:
    """Return numbers as the signed ones of 64 bits that they stand for."""
    return [value - (1 << 64) if value >> 63 else value for value in values]


def _packed(content: memoryview) -> list[int]:
    found, place = [], 0
    while place < len(content):
        value, place = _varint(content, place)
        found.append(value)
    return found


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(content) or shift > 63:
            raise ValueError("a number is cut short")
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
