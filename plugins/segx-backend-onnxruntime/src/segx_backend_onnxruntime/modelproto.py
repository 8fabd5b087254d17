"""Reads the little that is asked of an ``.onnx`` file before it is opened, straight from its bytes.

Source: the field numbers of ``onnx.proto3``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.io.protobuf import Message
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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
        ValueError: It is empty, cut short, or no ONNX model.
    """
    model = Message.of(path)
    if 7 not in model:
        raise ValueError("it holds no graph")
    graph = model.message(7)
    weights = {item.text(8) for item in graph.messages(5)}  # old files list them among the inputs
    inputs = [_value(item) for item in graph.messages(11)]
    return ModelHeader(
        inputs=tuple(item for item in inputs if item.name not in weights),
        outputs=tuple(_value(item) for item in graph.messages(12)),
        metadata={entry.text(1): entry.text(2) for entry in model.messages(14)},
    )


def _value(item: Message) -> ValueHeader:
    tensor = item.message(2).message(1)  # empty for whatever is none
    shape = tuple(size.integer(1) if 1 in size else size.text(2) for size in tensor.message(2).messages(1))
    return ValueHeader(name=item.text(1), element_type=tensor.integer(1), shape=shape)
