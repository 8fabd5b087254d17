"""The options ncnn export takes."""

from __future__ import annotations

from segx.options.schema import option
from segx.options.verbs import CalibrationOptions


class NcnnOptions(CalibrationOptions):
    """Options of ``format=ncnn``."""

    half: bool = option(False, "16-bit weights, and 16-bit arithmetic where the processor has it")
    dynamic: bool = option(False, "leave height and width open; imgsz stays the size it is used with by default")
