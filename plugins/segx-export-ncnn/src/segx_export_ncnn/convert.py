"""Has pnnx convert an ONNX file, in a process and a folder of its own, and looks at what came out."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from segx.errors import ExportError

_LINES = 8
"""How much of what pnnx says last is shown where it fails."""


def convert(
    source: Path, scratch: Path, *, imgsz: tuple[int, int], stride: int, dynamic: bool, half: bool
) -> tuple[Path, Path]:
    """Return the text of layers and the weights that pnnx makes of an ONNX file.

    Args:
        source: The ONNX file.
        scratch: An empty folder, for what pnnx leaves: nine files.
        imgsz: (height, width) of the images.
        stride: Sides are multiples of this.
        dynamic: Leave height and width open.
        half: 16-bit weights.

    Raises:
        ExportError: pnnx fails, or ncnn has not what the model needs.
    """
    shutil.copy(source, scratch / "model.onnx")  # pnnx writes beside what it reads
    height, width = imgsz
    command = [str(_program()), "model.onnx", f"inputshape=[1,3,{height},{width}]", f"fp16={int(half)}"]
    if dynamic:  # what differs between two sizes stays open
        command.append(f"inputshape2=[1,3,{height + stride},{width + 2 * stride}]")
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    text, weights = scratch / "model.ncnn.param", scratch / "model.ncnn.bin"
    said = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-_LINES:])
    if done.returncode or not text.is_file() or not weights.is_file():
        raise ExportError(f"pnnx cannot convert {source.name} (it ended with code {done.returncode})", hint=said)
    return text, weights


def _program() -> Path:
    """Return pnnx's program; importing the package would import torch, which the program needs not.

    Raises:
        ExportError: It is not there.
    """
    spec = importlib.util.find_spec("pnnx")
    folders = spec.submodule_search_locations or () if spec else ()
    name = "pnnx.exe" if sys.platform == "win32" else "pnnx"
    for folder in folders:
        if (path := Path(folder) / name).is_file():
            return path
    raise ExportError("the package pnnx brings no program for this machine", hint='pip install "pnnx"')
