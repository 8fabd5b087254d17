"""Nodes and tensors of an ONNX graph, read from its bytes and written again.

Source: the field numbers of ``onnx.proto3``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from segx.io.protobuf import Message, signed, written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_INPUTS, _OUTPUTS, _NAME, _TYPE, _ATTRIBUTE, _DOMAIN = 1, 2, 3, 4, 5, 7
_DIMS, _DATA_TYPE, _INT64S, _TENSOR_NAME, _RAW, _LOCATION = 1, 2, 7, 8, 9, 14
_FLOAT, _INT64 = 1, 7
_INT, _TEXT, _INTS = 2, 3, 7
"""``AttributeProto.AttributeType`` of an integer, of a text, and of a list of integers."""


class Node(NamedTuple):
    """A node of a graph.

    Attributes:
        kind: Its operator; of other domains than ONNX's own with a dot.
        inputs: Names.
        outputs: Names.
        message: The whole of it.
    """

    kind: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    message: Message

    @classmethod
    def of(cls, content: memoryview) -> Node:
        """Return what a ``NodeProto`` says."""
        message = Message(content)
        domain = message.text(_DOMAIN)
        kind = message.text(_TYPE)
        kind = kind if domain in {"", "ai.onnx"} else f"{domain}.{kind}"
        return cls(kind, message.texts(_INPUTS), message.texts(_OUTPUTS), message)

    def integer(self, name: str, default: int) -> int:
        """Return an attribute, if it is an integer."""
        found = self._attributes().get(name)
        return signed(found)[-1] if isinstance(found, list) and found else default

    def is_square(self, kernel: int, *, stride: int = 1, padding: int = 0) -> bool:
        """Return whether it is a convolution, transposed or not, of one group and of these numbers along both axes."""
        usual = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": [1], "output_padding": [0, 0]}
        wanted = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4, "auto_pad": "NOTSET"}
        return {**usual, "auto_pad": "NOTSET", **self._attributes()} == {**usual, **wanted}

    def _attributes(self) -> dict[str, list[int] | str | None]:
        """Return attributes that are integers or a text; None: it is something else, or not of the type it says."""
        found: dict[str, list[int] | str | None] = {}
        for item in self.message.messages(_ATTRIBUTE):
            kind = item.integer(20)
            values = item.integers({_INT: 3, _INTS: 8}.get(kind, 0))
            found[item.text(1)] = values or (item.text(4) if kind == _TEXT else None)
        return found

    def renamed(self, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        """Return it with other inputs and outputs."""
        kept = [field for field in self.message.fields() if field[0] not in {_INPUTS, _OUTPUTS, _NAME}]
        return b"".join(written([*_texts(_INPUTS, inputs), *_texts(_OUTPUTS, outputs), *kept]))


class Tensor(NamedTuple):
    """A tensor of a graph: weights, or numbers that say how.

    Attributes:
        name: Its name.
        shape: Its sides.
        message: The whole of it.
    """

    name: str
    shape: Sequence[int]
    message: Message

    @classmethod
    def of(cls, content: memoryview) -> Tensor:
        """Return what a ``TensorProto`` says."""
        message = Message(content)
        return cls(message.text(_TENSOR_NAME), message.integers(_DIMS), message)

    @property
    def is_elsewhere(self) -> bool:
        """Whether its numbers lie in a file of their own."""
        return bool(self.message.integer(_LOCATION))

    @property
    def is_plain(self) -> bool:
        """Whether its numbers are float32 that lie in it as bytes."""
        return self.message.integer(_DATA_TYPE) == _FLOAT and _RAW in self.message

    def floats(self) -> NDArray[np.float32]:
        """Return the numbers of one that is plain."""
        (numbers,) = self.message.raw(_RAW)
        return np.frombuffer(numbers, "<f4").reshape(self.shape)

    def integers(self) -> list[int] | None:
        """Return the numbers of a list of 64-bit integers; None: it is something else."""
        if self.message.integer(_DATA_TYPE) != _INT64:
            return None
        found = signed(self.message.integers(_INT64S))
        for numbers in self.message.raw(_RAW):
            found += [number for (number,) in struct.iter_unpack("<q", numbers)]
        return found if self.shape == [len(found)] else None

    def rows(self, begin: int, count: int, name: str) -> bytes:
        """Return some rows of one that is plain, as a tensor of another name."""
        rows, *others = self.shape
        (numbers,) = self.message.raw(_RAW)
        row = len(numbers) // rows
        return _tensor(name, _FLOAT, [count, *others], numbers[begin * row : (begin + count) * row])


def new_tensor(name: str, values: NDArray[Any]) -> bytes:
    """Return a tensor of float32 or int64."""
    kind, order = (_INT64, "<i8") if values.dtype == np.int64 else (_FLOAT, "<f4")
    return _tensor(name, kind, values.shape, values.astype(order).tobytes())


def new_node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: int | Sequence[int]) -> bytes:
    """Return a node of ONNX's own operators."""
    given = [(_ATTRIBUTE, _attribute(name, value)) for name, value in attributes.items()]
    return b"".join(written([*_texts(_INPUTS, inputs), *_texts(_OUTPUTS, outputs), (_TYPE, kind.encode()), *given]))


def _tensor(name: str, kind: int, shape: Sequence[int], numbers: bytes | memoryview) -> bytes:
    sides = [(_DIMS, side) for side in shape]
    return b"".join(written([*sides, (_DATA_TYPE, kind), (_TENSOR_NAME, name.encode()), (_RAW, numbers)]))


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    values = [(3, value)] if isinstance(value, int) else [(8, item) for item in value]
    return b"".join(written([(1, name.encode()), *values, (20, _INT if isinstance(value, int) else _INTS)]))


def _texts(number: int, texts: Sequence[str]) -> list[tuple[int, bytes]]:
    return [(number, text.encode()) for text in texts]
