"""What a ``.tflite`` file says of its tensors to tools that do not know segx: a second flatbuffer within the first.

Where the converter leaves a note of itself, ``TFLITE_METADATA`` takes its place: the note's name and numbers are led to
new ones behind the model, and nothing else of it is moved or packed again.

Source: tensorflow/lite/schema/schema.fbs and tflite-support's metadata_schema.fbs, version 1; the numbers are those of
their fields.
"""

from __future__ import annotations

import struct
from typing import Any

import flatbuffers
from tensorflow.lite.python import schema_py_generated as schema

from segx.errors import ExportError

LABELS = "labels.txt"
"""The file of the appended archive that holds a class's name in each line."""

_NAME, _IDENTIFIER = "TFLITE_METADATA", b"M001"
_NOTE = b"CONVERSION_METADATA"
_ALIGNMENT = 16

_MEANING = {
    "output0": "for each anchor: x, y, width, height of a box, 1 the image; a score for each class, 32 coefficients",
    "output1": "32 prototypes; a mask is where their sum, weighted with an object's coefficients, is above 0",
    "boxes": "for each anchor and side of a box: 16 logits of its distance in strides",
    "scores": "for each anchor: a score for each class",
    "coefficients": "for each anchor: 32 coefficients of its mask",
    "prototypes": "32 prototypes; a mask is where their sum, weighted with an object's coefficients, is above 0",
}
_AXIS_LABELS, _DESCRIPTIONS = 2, 1


def described(model: bytes, *, name: str) -> bytes:
    """Return a ``.tflite`` file with metadata of its tensors: how images are normalised, and where the labels are.

    Args:
        model: As the converter made it, with a signature.
        name: Of the model.

    Raises:
        ExportError: There is no note that the metadata could take the place of.
    """
    content = bytearray(model)
    tree = schema.Model.GetRootAs(content, 0)
    notes = [tree.Metadata(place) for place in range(tree.MetadataLength())]
    note = next((note for note in notes if note.Name() == _NOTE), None)
    if note is None:
        raise ExportError("TensorFlow Lite's converter has left no note of itself", hint="another TensorFlow")
    numbers = tree.Buffers(note.Buffer())
    _lead(content, _field(note, 0), _NAME.encode(), after=b"\0")
    _lead(content, _field(numbers, 0), _metadata(tree, name))
    return bytes(content)


def _field(table: Any, number: int) -> int:
    """Return where a field of a table lies, which generated readers do not tell."""
    inner = table._tab  # noqa: SLF001
    return int(inner.Pos + inner.Offset(4 + 2 * number))


def _lead(content: bytearray, field: int, value: bytes, *, after: bytes = b"") -> None:
    """Put a vector of bytes behind everything, and the distance to it into a field."""
    content += bytes(-(len(content) + 4) % _ALIGNMENT)
    struct.pack_into("<I", content, field, len(content) - field)
    content += struct.pack("<I", len(value)) + value + after


def _metadata(tree: Any, name: str) -> bytes:
    graph, signature = tree.Subgraphs(0), tree.SignatureDefs(0)
    outputs = [signature.Outputs(place) for place in range(signature.OutputsLength())]
    names = {output.TensorIndex(): output.Name().decode() for output in outputs}
    image = {
        0: "images",
        1: "RGB, each value divided by 255",
        3: {0: _Byte(2), 1: {0: _Byte(1)}},  # content: an image, RGB
        4: [{0: _Byte(1), 1: {0: [0.0], 1: [255.0]}}],  # to be normalised: less 0, by 255
        5: {0: [1.0], 1: [0.0]},  # from 0 to 1
    }
    found = [_output(names[graph.Outputs(place)]) for place in range(graph.OutputsLength())]
    builder = flatbuffers.Builder()
    root = {0: name, 1: "instance segmentation", 3: [{2: [image], 3: found}], 7: "1.0.0"}
    builder.Finish(_put(builder, root), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _output(name: str) -> dict[int, Any]:
    """Return what there is to say of an output; classes have an axis of their own only where outputs are kept apart."""
    said: dict[int, Any] = {0: name, 1: _MEANING.get(name, name)}
    if name in {"scores", "output0"}:
        kind = _AXIS_LABELS if name == "scores" else _DESCRIPTIONS
        said[6] = [{0: LABELS, 1: "names of the classes, one a line", 2: _Byte(kind)}]
    return said


class _Byte(int):
    """A number that takes one byte of a table."""


def _put(builder: Any, value: Any) -> int:
    """Write texts, lists and tables (number of a field to its value), and return where what was written lies."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, list):
        inner = [item if isinstance(item, float) else _put(builder, item) for item in value]
        builder.StartVector(4, len(inner), 4)
        for item in reversed(inner):
            (builder.PrependFloat32 if isinstance(item, float) else builder.PrependUOffsetTRelative)(item)
        return int(builder.EndVector())
    places = {number: item if isinstance(item, _Byte) else _put(builder, item) for number, item in value.items()}
    builder.StartObject(max(places) + 1)
    for number, place in places.items():
        slot = builder.PrependInt8Slot if isinstance(place, _Byte) else builder.PrependUOffsetTRelativeSlot
        slot(number, place, 0)
    return int(builder.EndObject())
