"""The options TensorFlow Lite export takes."""

from __future__ import annotations

from typing import Literal

from segx.options.schema import option
from segx.options.verbs import CalibrationOptions


class TfliteOptions(CalibrationOptions):
    """Options of ``format=tflite``."""

    half: bool = option(False, "16-bit weights; arithmetic is 32-bit on a CPU, 16-bit on a GPU")
    values: Literal["float32", "int8", "uint8"] = option(
        "float32", "numbers that an int8 file takes and gives: float32, or int8 or uint8 for hardware without floats"
    )
