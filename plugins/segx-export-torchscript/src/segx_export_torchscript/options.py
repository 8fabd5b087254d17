"""The options TorchScript export takes."""

from __future__ import annotations

from segx.options.schema import option
from segx.options.verbs import ExportOptions

FOR_GPUS = "is for GPUs: on a CPU torch runs 16-bit convolutions many times slower than 32-bit ones"
"""Why 16 bits are refused where there is none."""


class TorchScriptOptions(ExportOptions):
    """Options of ``format=torchscript``."""

    half: bool = option(False, "16-bit weights, inputs and arithmetic; for GPUs, needs device=cuda")
    dynamic: bool = option(False, "leave batch, height and width open; imgsz stays the size it is used with by default")
    optimize: bool = option(False, "freeze: weights become constants, and what only training needs is dropped")
