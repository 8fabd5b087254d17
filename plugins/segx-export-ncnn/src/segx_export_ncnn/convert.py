"""Has pnnx convert an ONNX file, and looks at what came out: runs in a process and a folder of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import ncnn

from segx.errors import ExportError
from segx_export_ncnn import model

_LINES = 8
"""How much of what pnnx says last is shown where it fails."""


def convert(source: str, *, imgsz: list[int], other: list[int] | None, half: bool) -> None:
    """Write ``model.ncnn.param`` and ``model.ncnn.bin`` beside an ONNX file, among much else that pnnx leaves.

    Args:
        source: The ONNX file, in a folder for this work alone.
        imgsz: (height, width) of the images.
        other: Another size; what differs between the two stays open. None: the size is fixed.
        half: 16-bit weights.

    Raises:
        ExportError: pnnx fails, or ncnn has not what the model needs.
    """
    path = Path(source)
    command = [str(program()), path.name, _shape("inputshape", imgsz), f"fp16={int(half)}"]
    if other is not None:
        command.append(_shape("inputshape2", other))
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    text, weights = path.with_name(model.TEXT), path.with_name(model.WEIGHTS)
    if done.returncode or not text.is_file() or not weights.is_file():
        said = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-_LINES:])
        raise ExportError(f"pnnx cannot convert this graph (it ended with code {done.returncode})", hint=said)
    check(text, weights)


def check(text: Path, weights: Path) -> None:
    """Make sure that ncnn can load a model: pnnx ends well too where it leaves operations that ncnn has not.

    Raises:
        ExportError: It cannot, with the operations where they are known.
    """
    again = "pip install -U ncnn pnnx, or another opset"
    kinds = {line.split(maxsplit=1)[0] for line in text.read_text(encoding="utf-8").splitlines()[2:] if line.strip()}
    if unknown := sorted(kind for kind in kinds if ncnn.layer_to_index(kind) < 0):
        raise ExportError(f"the graph needs operations that ncnn has not: {', '.join(unknown)}", hint=again)
    net = ncnn.Net()
    if net.load_param(str(text)) or net.load_model(str(weights)):
        raise ExportError("ncnn cannot load what pnnx makes of the graph", hint=again)


def program() -> Path:
    """Return pnnx's program; importing the package would import torch, which the program needs not.

    Raises:
        ExportError: It is not there.
    """
    spec = importlib.util.find_spec("pnnx")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    name = "pnnx.exe" if sys.platform == "win32" else "pnnx"
    for folder in folders:
        if (path := Path(folder) / name).is_file():
            return path
    raise ExportError("the package pnnx brings no program for this machine", hint='pip install "pnnx"')


def _shape(word: str, size: list[int]) -> str:
    return f"{word}=[1,3,{size[0]},{size[1]}]"
