"""Reads the little that is asked of a GraphDef or a SavedModel before it is opened, straight from its bytes.

TensorFlow takes seconds to import and belongs into a process of its own.

Source: the field numbers of TensorFlow's ``graph.proto``, ``node_def.proto``, ``tensor_shape.proto``,
``saved_model.proto`` and ``meta_graph.proto``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from segx.io.protobuf import Message, signed

if TYPE_CHECKING:
    from pathlib import Path

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
        ValueError: It is empty, cut short, or no graph.
    """
    placeholders: dict[str, tuple[int | None, ...]] = {}
    names: list[str] = []
    read: set[str] = set()
    for node in Message.of(path).messages(1):
        name, operator = node.text(1), node.text(2)
        if operator == "Placeholder":
            attribute = node.entries(5).get("shape")
            placeholders[name] = () if attribute is None else _shape(attribute.message(7))
        elif operator not in {"Const", "NoOp"}:
            names.append(name)
        read.update(source.removeprefix("^").partition(":")[0] for source in node.texts(3))
    if len(placeholders) != 1:
        raise ValueError(f"it has {len(placeholders)} placeholders ({', '.join(placeholders) or 'none'}), not one")
    ((name, shape),) = placeholders.items()
    return Header(input=name, shape=shape, outputs=tuple(item for item in names if item not in read))


def read_saved_model(path: Path) -> Header:
    """Return what the serving signature of a SavedModel's ``saved_model.pb`` says.

    Raises:
        OSError: The file is missing, or is none.
        ValueError: It is empty, cut short, or has no such signature.
    """
    for graph in Message.of(path).messages(2):
        if signature := graph.entries(5).get(SIGNATURE):
            return _signature(signature)
    raise ValueError(f"it has no signature {SIGNATURE}")


def _signature(signature: Message) -> Header:
    inputs = {name: _shape(tensor.message(3)) for name, tensor in signature.entries(1).items()}
    if len(inputs) != 1:
        raise ValueError(f"its signature has {len(inputs)} inputs ({', '.join(inputs) or 'none'}), not one")
    ((name, shape),) = inputs.items()
    return Header(input=name, shape=shape, outputs=tuple(sorted(signature.entries(2))))


def _shape(shape: Message) -> tuple[int | None, ...]:
    sizes = signed([axis.integer(1) for axis in shape.messages(2)])
    return tuple(None if size < 0 else size for size in sizes)  # -1: open
