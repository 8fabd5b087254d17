"""Reads the little that is asked of a GraphDef or a SavedModel before it is opened, straight from its bytes.

TensorFlow takes seconds to import and belongs into a process of its own. Walking over a message takes neither, skips
the weights without reading them, and finds a truncated file at once.

Source: the protobuf wire format (protobuf.dev/programming-guides/encoding) and the field numbers of TensorFlow's
``graph.proto``, ``node_def.proto``, ``tensor_shape.proto``, ``saved_model.proto`` and ``meta_graph.proto``.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segx.io.files import open_regular
from segx.io.protobuf import fields, span_of, text_at

if TYPE_CHECKING:
    from pathlib import Path

    from segx.io.protobuf import Span

_UNKNOWN = (1 << 64) - 1
"""-1, as a length that is open is written."""

SIGNATURE = "serving_default"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a graph takes and gives.

    Attributes:
        input: Name of its input.
        shape: Lengths of its input, None where open; empty where they are not said.
        outputs: Names of its outputs.
    """

    input: str
    shape: tuple[int | None, ...]
    outputs: tuple[str, ...]


def read_graph(path: Path) -> Header:
    """Return what a frozen graph says of itself: its one placeholder, and the nodes that no other reads.

    Raises:
        OSError: The file is missing, or is none.
        ValueError: It is empty, cut short, or no graph; IndexError likewise.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        placeholders: dict[str, tuple[int | None, ...]] = {}
        names: list[str] = []
        read: set[str] = set()
        for number, value in fields(data, (0, len(data))):
            if number != 1:
                continue
            name, operator, inputs, shape = _node(data, span_of(value))
            if operator == "Placeholder":
                placeholders[name] = shape
            elif operator not in {"Const", "NoOp"}:
                names.append(name)
            read.update(source.removeprefix("^").partition(":")[0] for source in inputs)
    if len(placeholders) != 1:
        raise ValueError(f"it has {len(placeholders)} placeholders ({', '.join(placeholders) or 'none'}), not one")
    ((name, shape),) = placeholders.items()
    return Header(input=name, shape=shape, outputs=tuple(item for item in names if item not in read))


def read_saved_model(path: Path) -> Header:
    """Return what the serving signature of a SavedModel's ``saved_model.pb`` says.

    Raises:
        OSError: The file is missing, or is none.
        ValueError: It is empty, cut short, or has no such signature; IndexError likewise.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for number, value in fields(data, (0, len(data))):
            if number != 2:
                continue
            for inner, entry in fields(data, span_of(value)):
                if inner == 5:
                    name, signature = _entry(data, span_of(entry))
                    if name == SIGNATURE:
                        return _signature(data, signature)
    raise ValueError(f"it has no signature {SIGNATURE}")


def _signature(data: mmap.mmap, span: Span) -> Header:
    inputs: dict[str, tuple[int | None, ...]] = {}
    outputs: list[str] = []
    for number, value in fields(data, span):
        if number == 1:
            name, tensor = _entry(data, span_of(value))
            shapes = [_shape(data, span_of(item)) for field, item in fields(data, tensor) if field == 3]
            inputs[name] = shapes[0] if shapes else ()
        elif number == 2:
            outputs.append(_entry(data, span_of(value))[0])
    if len(inputs) != 1:
        raise ValueError(f"its signature has {len(inputs)} inputs ({', '.join(inputs) or 'none'}), not one")
    ((name, shape),) = inputs.items()
    return Header(input=name, shape=shape, outputs=tuple(sorted(outputs)))


def _node(data: mmap.mmap, span: Span) -> tuple[str, str, list[str], tuple[int | None, ...]]:
    name = operator = ""
    inputs: list[str] = []
    shape: tuple[int | None, ...] = ()
    for number, value in fields(data, span):
        match number:
            case 1:
                name = text_at(data, span_of(value))
            case 2:
                operator = text_at(data, span_of(value))
            case 3:
                inputs.append(text_at(data, span_of(value)))
            case 5 if operator == "Placeholder":
                key, attribute = _entry(data, span_of(value))
                if key == "shape":
                    shape = next(
                        (_shape(data, span_of(item)) for field, item in fields(data, attribute) if field == 7), ()
                    )
    return name, operator, inputs, shape


def _shape(data: mmap.mmap, span: Span) -> tuple[int | None, ...]:
    return tuple(_length(data, span_of(value)) for number, value in fields(data, span) if number == 2)


def _length(data: mmap.mmap, span: Span) -> int | None:
    size = next((value for number, value in fields(data, span) if number == 1), 0)
    if not isinstance(size, int):
        raise ValueError("a message lies where a length belongs")  # noqa: TRY004 - damage, not a caller's mistake
    return None if size == _UNKNOWN else size


def _entry(data: mmap.mmap, span: Span) -> tuple[str, Span]:
    """Return key and value of an entry of a map."""
    key, value = "", (span[1], span[1])
    for number, content in fields(data, span):
        if number == 1:
            key = text_at(data, span_of(content))
        elif number == 2:
            value = span_of(content)
    return key, value
