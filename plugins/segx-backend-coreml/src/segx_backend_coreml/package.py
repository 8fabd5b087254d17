"""Reads a Core ML package (``.mlpackage``): what it takes and gives, its metadata and its program.

Only the standard library is needed. A package is a folder: ``Manifest.json`` names the model, a protocol buffer, and
the weights lie in a file beside that. Of the model, the program is read only when it is asked for.
Source: coremltools' published message definitions (``mlmodel/format``: Model.proto, FeatureTypes.proto, MIL.proto).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from segx.io.files import read_regular
from segx.io.protobuf import Message, signed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_MANIFEST = 1 << 20
_MAX_MODEL = 1 << 30
_VERSION, _DESCRIPTION, _PROGRAM = 1, 2, 502
_INPUT, _OUTPUT, _METADATA, _USER_DEFINED = 1, 10, 100, 100
_FLOATS = {65568: "fp32", 65552: "fp16", 65600: "fp64"}
_RGB, _BGR = 20, 30


@dataclass(frozen=True, kw_only=True)
class Feature:
    """An input or output.

    Attributes:
        name: Its name.
        shape: Lengths of an array, or (1, 3, height, width) of an image; empty: not said.
        kind: ``"fp32"``, ``"fp16"``, ``"RGB"``, ``"BGR"``; anything else is not of use here.
        fixed: Whether the shape is the only one.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    fixed: bool

    @property
    def is_image(self) -> bool:
        """Whether it is an image of bytes rather than an array."""
        return self.kind in {"RGB", "BGR"}


@dataclass(frozen=True)
class Package:
    """A package whose description has been read.

    Attributes:
        model: The file of the model.
        version: Number of its specification.
        inputs: What it takes.
        outputs: What it gives.
        metadata: Text under keys, as its author embedded it.
        program: The bytes of its program; empty: it is of another kind, such as a pipeline.
    """

    model: Path
    version: int
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    metadata: Mapping[str, str]
    program: memoryview

    @cached_property
    def weights(self) -> Path:
        """The folder that ``@model_path`` stands for in the program."""
        return self.model.parent


def read_package(path: Path) -> Package:
    """Return what a package says of itself.

    Raises:
        ValueError: It is damaged, or no package.
        OSError: A file of it cannot be read.
    """
    model = path / _model_of(path)
    content = Message(memoryview(read_regular(model, limit=_MAX_MODEL)))
    version, said = content.integer(_VERSION), content.message(_DESCRIPTION)
    if not version or _INPUT not in said:
        raise ValueError(f"{model.name} describes no model")
    metadata = said.message(_METADATA)
    return Package(
        model=model,
        version=version,
        inputs=tuple(_feature(item) for item in said.messages(_INPUT)),
        outputs=tuple(_feature(item) for item in said.messages(_OUTPUT)),
        metadata={entry.text(1): entry.text(2) for entry in metadata.messages(_USER_DEFINED)},
        program=(content.raw(_PROGRAM) or [memoryview(b"")])[-1],
    )


def _model_of(path: Path) -> PurePosixPath:
    """Return where in a package its model lies."""
    manifest = json.loads(read_regular(path / "Manifest.json", limit=_MAX_MANIFEST))
    try:
        place = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (KeyError, TypeError) as error:
        raise ValueError("Manifest.json names no model") from error
    inside = PurePosixPath("Data", str(place))
    if ".." in inside.parts or PurePosixPath(str(place)).is_absolute():
        raise ValueError("Manifest.json leads out of the package")
    return inside


def _feature(item: Message) -> Feature:
    kind = item.message(3)
    if 4 in kind:
        image = kind.message(4)
        colours = {_RGB: "RGB", _BGR: "BGR"}.get(image.integer(3), "an image of another kind")
        shape: Sequence[int] = (1, 3, image.integer(2), image.integer(1))
        return Feature(name=item.text(1), shape=tuple(shape), kind=colours, fixed=not {21, 31} & _numbers(image))
    array = kind.message(5)
    return Feature(
        name=item.text(1),
        shape=tuple(signed(array.integers(1))),
        kind=_FLOATS.get(array.integer(2), "no floats"),
        fixed=not {21, 31} & _numbers(array),
    )


def _numbers(message: Message) -> set[int]:
    return {number for number in (21, 31) if number in message}
