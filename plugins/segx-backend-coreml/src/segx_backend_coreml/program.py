"""Reads the program of a Core ML package (MIL): operations, their arguments and constants, weights from their file."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from segx.io.files import open_regular
from segx.io.protobuf import Message, signed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from segx_backend_coreml.package import Package

HALF = 10
"""The type of 16-bit floats."""
_STRING = 2
_TYPES: Mapping[int, str] = {
    1: "bool",
    10: "<f2",
    11: "<f4",
    12: "<f8",
    21: "i1",
    22: "<i2",
    23: "<i4",
    24: "<i8",
    31: "u1",
    32: "<u2",
    33: "<u4",
    34: "<u8",
}
_SMALL: Mapping[int, tuple[int, bool]] = {
    25: (4, True),
    35: (4, False),
    36: (2, False),
    37: (1, False),
    38: (6, False),
    39: (3, False),
}
"""Types of fewer than 8 bits: how many, and whether they are signed."""
_PLACE = "@model_path/"
_BLOB = struct.Struct("<IIQQ")
_MARK = 0xDEADBEEF
_MAX_NUMBERS = 1 << 31


@dataclass(frozen=True)
class Name:
    """An argument that is what an operation, or the caller, gives."""

    name: str


@dataclass(frozen=True)
class Output:
    """What an operation gives.

    Attributes:
        name: Its name.
        type: Number of its type; see :data:`HALF`.
        shape: Lengths; None where they are not known beforehand.
    """

    name: str
    type: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Operation:
    """One operation: each argument is one name or value, or a list of them."""

    kind: str
    arguments: Mapping[str, Any]
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Program:
    """A program without branches."""

    inputs: tuple[Output, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


def read_program(package: Package) -> Program:
    """Return the program of a package, its constants as arrays, texts, numbers and truth values.

    Raises:
        ValueError: It is damaged, of another kind, or has something that is not read here.
        OSError: Its weights cannot be read.
    """
    if not package.program:
        raise ValueError("it holds no ML program; pipelines and neural networks of before are not run here")
    functions = Message(package.program).entries(2)
    if "main" not in functions:
        raise ValueError("its program has no function called main")
    main = functions["main"]
    block = main.entries(3).get(main.text(2))
    if block is None:
        raise ValueError(f"its program has no block for {main.text(2) or 'its operations'}")
    with _Weights(package.weights) as weights:
        operations = tuple(_operation(item, weights) for item in block.messages(3))
    return Program(tuple(_output(item) for item in main.messages(1)), operations, tuple(block.texts(2)))


def _operation(message: Message, weights: _Weights) -> Operation:
    kind = message.text(1)
    if 4 in message:
        raise ValueError(f"{kind} has branches, which are not run here")
    arguments: dict[str, Any] = {}
    for name, argument in message.entries(2).items():
        found = [_bound(item, weights) for item in argument.messages(1)]
        arguments[name] = found if name == "values" or len(found) != 1 else found[0]
    for name, value in message.entries(5).items():
        if name != "name":
            arguments.setdefault(name, _value(value, weights))
    return Operation(kind, arguments, tuple(_output(item) for item in message.messages(3)))


def _bound(item: Message, weights: _Weights) -> Any:
    return Name(item.text(1)) if 1 in item else _value(item.message(2), weights)


def _output(item: Message) -> Output:
    tensor = item.message(2).message(1)
    return Output(item.text(1), tensor.integer(1), _shape(tensor))


def _shape(tensor: Message) -> tuple[int | None, ...]:
    return tuple(item.message(1).integer(1) if 1 in item else None for item in tensor.messages(3))


def _value(value: Message, weights: _Weights) -> Any:
    """Return a constant: a list, a text, a number, a truth value, or an array."""
    given = value.message(3)
    if 3 in given or 2 in given:
        return [_value(item, weights) for item in given.message(3 if 3 in given else 2).messages(1)]
    tensor = value.message(2).message(1)
    kind, shape = tensor.integer(1), _known(_shape(tensor))
    if 5 in value:
        blob = value.message(5)
        return _plain(weights.read(blob.text(1), blob.integer(2), kind, shape))
    held = given.message(1)
    if kind == _STRING:
        texts = held.message(4).texts(1)
        return texts if shape else (texts or [""])[0]
    return _plain(_numbers(held, kind, shape))


def _plain(array: NDArray[Any]) -> Any:
    return array if array.ndim else array.item()


def _known(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    lengths = tuple(length for length in shape if length is not None)
    if len(lengths) != len(shape) or _count(lengths) > _MAX_NUMBERS:
        raise ValueError("a constant is of no length that can be")
    return lengths


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _numbers(held: Message, kind: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return numbers that stand in the program itself."""
    wanted = _type(kind)
    if 7 in held:
        found = np.frombuffer(b"".join(held.message(7).raw(1)), wanted)
    elif 1 in held or 6 in held:
        stored, number = ("<f4", 1) if 1 in held else ("<f8", 6)
        found = np.frombuffer(b"".join(held.message(number).raw(1)), stored).astype(wanted)
    else:
        number = next((number for number in (2, 3, 5) if number in held), 2)
        found = np.array(signed(held.message(number).integers(1)), np.int64).astype(wanted)
    return found.reshape(shape)


def _type(kind: int) -> np.dtype[Any]:
    if kind not in _TYPES:
        raise ValueError(f"numbers of type {kind} are not read here")
    return np.dtype(_TYPES[kind])


class _Weights:
    """The files of weights of a package, mapped while it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, mmap.mmap] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for content in self._files.values():
            content.close()

    def read(self, name: str, place: int, kind: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an array of its own that stands at a place in a file."""
        content = self._open(name)
        if place > len(content) - _BLOB.size:
            raise ValueError("its weights are cut short")
        mark, _, size, begins = _BLOB.unpack_from(content, place)
        if mark != _MARK or size > len(content) - begins:
            raise ValueError("its weights are cut short, or not those of its program")
        count, small = _count(shape), _SMALL.get(kind)
        bits = small[0] if small else 8 * _type(kind).itemsize
        if (count * bits + 7) // 8 > size:
            raise ValueError("its weights are not those of its program")
        if small:
            return _unpacked(content[begins : begins + size], count, *small).reshape(shape)
        length = count * bits // 8
        return np.frombuffer(content[begins : begins + length], _type(kind)).reshape(shape)

    def _open(self, name: str) -> mmap.mmap:
        if name not in self._files:
            inside = name.removeprefix(_PLACE)
            if inside == name or ".." in inside.split("/"):
                raise ValueError("its weights lie outside of it")
            with open_regular(self._folder / inside) as file:
                self._files[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._files[name]


def _unpacked(content: bytes, count: int, bits: int, signed_: bool) -> NDArray[Any]:  # noqa: FBT001 - as the table has it
    """Return numbers of a few bits each, packed from the lowest bit on, as bytes."""
    spread = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    found: NDArray[Any] = (spread << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8)
    if not signed_:
        return found
    negative = found >> (bits - 1) > 0
    return np.where(negative, found.astype(np.int16) - (1 << bits), found).astype(np.int8)
