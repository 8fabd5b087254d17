"""Reads the text of layers of an ncnn model: the ``.param`` file.

Its first line is a number that says what it is, its second the number of layers and of blobs, the values that go from
layer to layer. Then comes a line for each layer: ``type name inputs outputs input... output... key=value...``.

Source: github.com/Tencent/ncnn/wiki/param-and-model-file-structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from segx.io.files import read_regular

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = "7767517"
_MAX_BYTES = 16 << 20
"""A text of layers is some ten thousand bytes; the largest of these models has thirty thousand."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What is asked of an ncnn model before it is opened.

    Attributes:
        inputs: Names of the blobs that have to be given.
        outputs: Names of the blobs that no layer takes: numbers at their ends are counted, ``out2`` before ``out10``.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def find(folder: Path) -> tuple[Path, Path]:
    """Return the layers and the weights in a folder, of whatever name: ``model.ncnn.param`` and ``model.ncnn.bin``.

    Raises:
        ValueError: There are none, or several.
    """
    if not folder.is_dir():
        raise FileNotFoundError(2, "there is no such folder")
    found = sorted(folder.glob("*.param"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"one .param file is wanted in it, there are: {names}")
    weights = found[0].with_suffix(".bin")
    if not weights.is_file():
        raise ValueError(f"{weights.name} is missing in it")
    return found[0], weights


def read(path: Path) -> Layers:
    """Return the inputs and outputs of a text of layers.

    Raises:
        OSError: It cannot be read.
        ValueError: It is cut short, or none.
    """
    lines = read_regular(path, limit=_MAX_BYTES).decode("utf-8").splitlines()
    if len(lines) < 2 or lines.pop(0).strip() != _MAGIC:
        raise ValueError(f"{path.name} does not begin with {_MAGIC}")
    layers, blobs = (int(count) for count in lines.pop(0).split())
    rows = [line.split() for line in lines if line.strip()]
    if len(rows) != layers:
        raise ValueError(f"{path.name} has {len(rows)} layers, not {layers}")
    taken: set[str] = set()
    made: dict[str, str] = {}
    for kind, _, takes, makes, *rest in rows:
        first, last = int(takes), int(takes) + int(makes)
        if len(rest) < last:
            raise ValueError(f"{path.name}: a layer of type {kind} is cut short")
        taken.update(rest[:first])
        made.update(dict.fromkeys(rest[first:last], kind))
    if len(made) != blobs:
        raise ValueError(f"{path.name} has {len(made)} blobs, not {blobs}")
    return Layers(
        inputs=tuple(name for name, kind in made.items() if kind == "Input"),
        outputs=tuple(sorted((name for name in made if name not in taken), key=_counted)),
    )


def _counted(name: str) -> tuple[str, int]:
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0)
