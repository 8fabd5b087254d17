"""An ncnn model as layers with their weights, read from its two files and written back.

The text holds a line for each layer, the other file the weights of the layers one after the other, without names: who
does not know one layer's weights cannot find those of the next.

Source: github.com/Tencent/ncnn/wiki, param-and-model-file-structure and operation-param-weight-table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    Numbers = NDArray[Any]

TEXT, WEIGHTS = "model.ncnn.param", "model.ncnn.bin"
"""What the two files are called, by pnnx and by other tools."""

_MAGIC = "7767517"
_FLOAT16, _INT8 = 0x01306B47, 0x000D4B38
"""What stands before weights that are no 32-bit numbers; 0 stands before those."""

_BIAS = 5
"""Key of the parameter that says whether a layer has a bias."""

_CONVOLUTIONS = frozenset({"Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise"})
_HEAVY = _CONVOLUTIONS | {"InnerProduct"}
_FEW_WEIGHTS = 256
"""A layer of fewer weights is arithmetic in disguise, like the expectation over 16 bins of a box's side."""


@dataclass
class Layer:
    """A layer.

    Attributes:
        kind: What ncnn calls it: ``"Convolution"``.
        name: Its own name.
        inputs: The blobs it takes.
        outputs: The blobs it makes.
        settings: Its parameters by their keys, as text.
        weights: What it has of weights, as they lie in the file; of a layer that is quantised int8, then float32.
    """

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    settings: dict[int, str]
    weights: list[Numbers] = field(default_factory=list)

    def number(self, key: int, default: int = 0) -> int:
        """Return a parameter that is a whole number."""
        return int(self.settings.get(key, default))


def read(text: Path, weights: Path) -> list[Layer]:
    """Return the layers of a model.

    Raises:
        ExportError: It holds weights of layers that are not known here.
    """
    lines = text.read_text(encoding="utf-8").splitlines()
    layers = [_layer(line) for line in lines[2:] if line.strip()]
    content, position = weights.read_bytes(), 0
    for layer in layers:
        for length, tagged in _lengths(layer):
            array, position = _read(content, position, length, tagged=tagged)
            layer.weights.append(array)
    if position != len(content):
        kinds = sorted({layer.kind for layer in layers if not layer.weights})
        msg = f"{len(content) - position} bytes of weights belong to layers that are not known: one of"
        raise ExportError(f"{msg} {', '.join(kinds)}", hint="int8=False")
    return layers


def write(layers: list[Layer], text: Path, weights: Path) -> None:
    """Write a model's two files."""
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [_MAGIC, f"{len(layers)} {blobs}", *map(_line, layers)]
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with weights.open("wb") as file:
        for layer in layers:
            tags = [tagged for _, tagged in _lengths(layer)]
            for index, array in enumerate(layer.weights):
                tagged = index < len(tags) and tags[index]  # scales of a quantised layer come after what it had
                file.write(_bytes(array, tagged=tagged))


def is_heavy(layer: Layer) -> bool:
    """Return True for a layer of many weights, where a model spends its time; a constant is none."""
    return layer.kind in _HEAVY and len(layer.weights[0]) >= _FEW_WEIGHTS


def leading_on(layers: Iterable[Layer]) -> set[str]:
    """Return the blobs from which a way leads to a layer of many weights; the others belong to the end."""
    found: set[str] = set()
    for layer in reversed(list(layers)):
        if is_heavy(layer) or not found.isdisjoint(layer.outputs):
            found.update(layer.inputs)
    return found


def _layer(line: str) -> Layer:
    kind, name, takes, makes, *rest = line.split()
    first, last = int(takes), int(takes) + int(makes)
    settings = dict(part.split("=", 1) for part in rest[last:])
    return Layer(
        kind=kind,
        name=name,
        inputs=rest[:first],
        outputs=rest[first:last],
        settings={int(key): value for key, value in settings.items()},
    )


def _line(layer: Layer) -> str:
    settings = [f"{key}={value}" for key, value in layer.settings.items()]
    counts = f"{len(layer.inputs)} {len(layer.outputs)}"
    return " ".join([f"{layer.kind:24} {layer.name:24}", counts, *layer.inputs, *layer.outputs, *settings])


def _lengths(layer: Layer) -> list[tuple[int, bool]]:
    """Return how many weights a layer has of each sort, and whether a word before them says what they are."""
    count = layer.number(0)
    if layer.kind in _CONVOLUTIONS or layer.kind == "InnerProduct":
        weights = (layer.number(2 if layer.kind == "InnerProduct" else 6), True)
        bias = layer.number(1 if layer.kind == "InnerProduct" else _BIAS)
        return [weights, (count, False)] if bias else [weights]
    if layer.kind == "MemoryData":
        lengths = [layer.number(key) or 1 for key in (0, 1, 11, 2)]
        return [(int(np.prod(lengths)), layer.number(21, 1) == 0)]
    if layer.kind == "BatchNorm":
        return [(count, False)] * 4
    if layer.kind == "PReLU":
        return [(count, False)]
    return []


def _read(content: bytes, position: int, length: int, *, tagged: bool) -> tuple[Numbers, int]:
    kind: Any = np.float32
    if tagged:
        tag = int.from_bytes(content[position : position + 4], "little")
        if tag not in {0, _FLOAT16}:
            raise ExportError(f"weights at byte {position} are of an unknown kind ({tag:#x})", hint="int8=False")
        kind, position = (np.float16 if tag else np.float32), position + 4
    end = position + length * np.dtype(kind).itemsize
    if end > len(content):
        raise ExportError(f"the weights end {end - len(content)} bytes early", hint="int8=False")
    array = np.frombuffer(content, kind, length, position)
    return array, _aligned(end - position) + position


def _bytes(array: Numbers, *, tagged: bool) -> bytes:
    if not tagged:
        return array.astype("<f4").tobytes()
    tags = {np.dtype(np.int8): _INT8, np.dtype(np.float16): _FLOAT16}
    data = array.tobytes()
    padding = bytes(_aligned(len(data)) - len(data))
    return tags.get(array.dtype, 0).to_bytes(4, "little") + data + padding


def _aligned(length: int) -> int:
    return (length + 3) // 4 * 4
