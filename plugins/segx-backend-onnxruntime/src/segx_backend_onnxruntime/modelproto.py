"""Reads the little that is asked of an ``.onnx`` file before it is opened, straight from its bytes.

An ONNX file is one protobuf message. Walking over it takes neither the ``onnx`` package nor a session, skips the
weights without reading them, and finds a truncated file at once.

Source: the protobuf wire format (protobuf.dev/programming-guides/encoding) and the field numbers of ``onnx.proto3``.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from segx.io.files import open_regular
from segx.io.protobuf import fields, number_of, span_of, text_at
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.io.protobuf import Span


FLOAT32, FLOAT16 = 1, 10
"""``TensorProto.DataType`` values of the element types segx feeds."""


class ValueHeader(Record):
    """An input or output of a graph.

    Attributes:
        name: Its name.
        element_type: ``TensorProto.DataType`` value.
        shape: Lengths; the name of an axis that takes any length, or an empty string where it has none.
    """

    name: str
    element_type: int
    shape: tuple[int | str, ...]


class ModelHeader(Record):
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
    for number, value in fields(data, (0, len(data))):
        match number:
            case 7:
                graph = span_of(value)
            case 14:
                key, text = _pair(data, span_of(value))
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
    for number, value in fields(data, span):
        match number:
            case 5:
                weights.add(_text_field(data, span_of(value), 8))
            case 11:
                inputs.append(_value(data, span_of(value)))
            case 12:
                outputs.append(_value(data, span_of(value)))
    return inputs, outputs, weights


def _value(data: mmap.mmap, span: Span) -> ValueHeader:
    name, element = "", 0
    shape: tuple[int | str, ...] = ()
    for number, value in fields(data, span):
        if number == 1:
            name = text_at(data, span_of(value))
        elif number == 2:
            element, shape = _type(data, span_of(value))
    return ValueHeader(name=name, element_type=element, shape=shape)


def _type(data: mmap.mmap, span: Span) -> tuple[int, tuple[int | str, ...]]:
    """Return element type and shape of a ``TypeProto``; anything but a tensor has neither."""
    element = 0
    shape: list[int | str] = []
    for number, value in fields(data, span):
        if number != 1:
            continue
        for inner, content in fields(data, span_of(value)):
            if inner == 1:
                element = number_of(content)
            elif inner == 2:
                shape = [_dimension(data, span_of(dim)) for key, dim in fields(data, span_of(content)) if key == 1]
    return element, tuple(shape)


def _dimension(data: mmap.mmap, span: Span) -> int | str:
    for number, value in fields(data, span):
        if number == 1:
            return number_of(value)
        if number == 2:
            return text_at(data, span_of(value))
    return ""


def _pair(data: mmap.mmap, span: Span) -> tuple[str, str]:
    parts = {number: text_at(data, span_of(value)) for number, value in fields(data, span) if number in {1, 2}}
    return parts.get(1, ""), parts.get(2, "")


def _text_field(data: mmap.mmap, span: Span, wanted: int) -> str:
    return next((text_at(data, span_of(value)) for number, value in fields(data, span) if number == wanted), "")
