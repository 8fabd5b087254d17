"""Reads protocol buffers as they lie in a file: numbered fields, without a schema and without a library."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


class Message:
    """One message: its fields by number, each as often as it occurs.

    Args:
        content: The bytes.

    Raises:
        ValueError: They are no message.
    """

    def __init__(self, content: memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = defaultdict(list)
        for number, value in fields(content):
            self._fields[number].append(value)

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def whole(self, number: int, default: int = 0) -> int:
        """Return a number: the last one, as protocol buffers have it."""
        value = self._fields.get(number, [default])[-1]
        if isinstance(value, int):
            return value
        raise ValueError(f"field {number} is no number")

    def raw(self, number: int) -> list[memoryview]:
        """Return the bytes of every field of a number."""
        found = self._fields.get(number, [])
        views = [value for value in found if isinstance(value, memoryview)]
        if len(views) != len(found):
            raise ValueError(f"field {number} holds numbers")
        return views

    def texts(self, number: int) -> list[str]:
        """Return every field of a number as text."""
        return [str(value, "utf-8") for value in self.raw(number)]

    def text(self, number: int) -> str:
        """Return the last field of a number as text; an empty one where there is none."""
        return (self.texts(number) or [""])[-1]

    def messages(self, number: int) -> list[Message]:
        """Return every field of a number as a message."""
        return [Message(value) for value in self.raw(number)]

    def message(self, number: int) -> Message:
        """Return a message that occurs once: where it occurs in parts, all of them together."""
        return Message(memoryview(b"".join(self.raw(number))))

    def entries(self, number: int) -> dict[str, Message]:
        """Return a mapping of names to messages."""
        return {entry.text(1): entry.message(2) for entry in self.messages(number)}

    def wholes(self, number: int) -> list[int]:
        """Return repeated numbers, packed together or one by one."""
        found: list[int] = []
        for value in self._fields.get(number, []):
            found += [value] if isinstance(value, int) else _packed(value)
        return found


def fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field; fixed numbers come as their bytes.

    Raises:
        ValueError: The bytes are no message, or end within a field.
    """
    place, end = 0, len(content)
    while place < end:
        key, place = _varint(content, place)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field has no number")
        if kind == _VARINT:
            value, place = _varint(content, place)
            yield number, value
            continue
        if kind == _BYTES:
            length, place = _varint(content, place)
        elif kind in {_FOUR, _EIGHT}:
            length = 4 if kind == _FOUR else 8
        else:
            raise ValueError(f"field {number} is of no known kind")
        if length > end - place:
            raise ValueError("it ends within a field")
        yield number, content[place : place + length]
        place += length


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
