"""Has MNN convert an ONNX file: runs in a process of its own, as the converter prints and answers to nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import _tools  # of MNN: the command mnnconvert calls the same, but installs a package and sends a report besides

from segx_export_mnn.net import PLACEHOLDER

_WEIGHTS = {"fp32": (), "fp16": ("--fp16",), "int8": ("--weightQuantBits", "8")}


def convert(source: str, destination: str, precision: str) -> None:
    """Write an MNN file.

    Args:
        source: The ONNX file.
        destination: What to write.
        precision: Of the weights: ``"fp32"``, ``"fp16"``, ``"int8"``.

    Raises:
        SystemExit: It was not written; what the converter has printed says why, and nothing else does.
    """
    files = ("--modelFile", source, "--MNNModel", destination)
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", *files, "--bizCode", PLACEHOLDER, *_WEIGHTS[precision]])
    if not Path(destination).is_file():
        sys.exit(1)
