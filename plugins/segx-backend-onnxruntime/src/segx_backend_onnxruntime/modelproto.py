"""Reads the little that is asked of an ``.onnx`` file before it is opened, straight from its bytes.

An ONNX file is one protobuf message. Walking over it takes neither the ``onnx`` package nor a session, skips the
weights without reading them, and finds a truncated file at once.

Source: the protobuf wire format (protobuf.dev/programming-guides/encoding) and the field numbers of ``onnx.proto3``.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segx.io.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    Span = tuple[int, int]
    """First byte and the byte after the last of an embedded message."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10

FLOAT32, FLOAT16 = 1, 10
"""``TensorProto.DataType`` values of the element types segx feeds."""


@dataclass(frozen=True, kw_only=True)
class ValueHeader:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        element_type: ``TensorProto.DataType`` value.
        shape: Lengths; the name of an axis that takes any length, or an empty string where it has none.
    """

    name: str
    element_type: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """An ONNX file without its nodes and weights.

    Attributes:
        inputs: Inputs that are not weights.
        outputs: Outputs, in order.
        metadata: ``metadata_props``.
    """

    inputs: tuple[ValueHeader, ...]
    outputs: tuple[ValueHeader, ...]
    metadata: Mapping[str, str]


def read_header(path: Path) -> ModelHeader:
    """Return what an ONNX file says of itself.

    Raises:
        OSError: The file is missing, or is none.
        ValueError: It is empty, cut short, or no ONNX model; IndexError, struct.error and RecursionError likewise.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _model(data)


def _model(data: mmap.mmap) -> ModelHeader:
    graph, metadata = None, {}
    for number, value in _fields(data, (0, len(data))):
        match number:
            case 7:
                graph = _span(value)
            case 14:
                key, text = _pair(data, _span(value))
                metadata[key] = text
    if graph is None:
        raise ValueError("it holds no graph")
    inputs, outputs, weights = _graph(data, graph)
    return ModelHeader(
        inputs=tuple(item for item in inputs if item.name not in weights),
        outputs=tuple(outputs),
        metadata=metadata,
    )


def _graph(data: mmap.mmap, span: Span) -> tuple[list[ValueHeader], list[ValueHeader], set[str]]:
    """Return inputs, outputs and the names of the weights, which old files list among the inputs."""
    inputs: list[ValueHeader] = []
    outputs: list[ValueHeader] = []
    weights: set[str] = set()
    for number, value in _fields(data, span):
        match number:
            case 5:
                weights.add(_text_field(data, _span(value), 8))
            case 11:
                inputs.append(_value(data, _span(value)))
            case 12:
                outputs.append(_value(data, _span(value)))
    return inputs, outputs, weights


def _value(data: mmap.mmap, span: Span) -> ValueHeader:
    name, element = "", 0
    shape: tuple[int | str, ...] = ()
    for number, value in _fields(data, span):
        if number == 1:
            name = _text(data, _span(value))
        elif number == 2:
            element, shape = _type(data, _span(value))
    return ValueHeader(name=name, element_type=element, shape=shape)


def _type(data: mmap.mmap, span: Span) -> tuple[int, tuple[int | str, ...]]:
    """Return element type and shape of a ``TypeProto``; anything but a tensor has neither."""
    element = 0
    shape: list[int | str] = []
    for number, value in _fields(data, span):
        if number != 1:
            continue
        for inner, content in _fields(data, _span(value)):
            if inner == 1:
                element = _number(content)
            elif inner == 2:
                shape = [_dimension(data, _span(dim)) for key, dim in _fields(data, _span(content)) if key == 1]
    return element, tuple(shape)


def _dimension(data: mmap.mmap, span: Span) -> int | str:
    for number, value in _fields(data, span):
        if number == 1:
            return _number(value)
        if number == 2:
            return _text(data, _span(value))
    return ""


def _pair(data: mmap.mmap, span: Span) -> tuple[str, str]:
    parts = {number: _text(data, _span(value)) for number, value in _fields(data, span) if number in {1, 2}}
    return parts.get(1, ""), parts.get(2, "")


def _text_field(data: mmap.mmap, span: Span, wanted: int) -> str:
    return next((_text(data, _span(value)) for number, value in _fields(data, span) if number == wanted), "")


def _text(data: mmap.mmap, span: Span) -> str:
    return data[span[0] : span[1]].decode("utf-8")


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Yield number and value of each field of a message: an integer, or where the bytes lie."""
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


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError(f"the number at byte {position} does not end")


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise ValueError("a number lies where a message belongs")  # noqa: TRY004 - damage, not a caller's mistake
    return value


def _number(value: int | Span) -> int:
    if not isinstance(value, int):
        raise ValueError("a message lies where a number belongs")  # noqa: TRY004 - damage, not a caller's mistake
    return value
