"""The options engine export takes."""

from __future__ import annotations

from segx.options.schema import ImageSize, option
from segx.options.verbs import CalibrationOptions, SuppressionOptions

MAX_BATCH = 8
"""Images per run that a dynamic engine takes, where nothing else is asked for."""


class EngineOptions(SuppressionOptions, CalibrationOptions):
    """Options of ``format=engine``."""

    half: bool = option(False, "16-bit weights and arithmetic; inputs and outputs stay 32-bit")
    dynamic: bool = option(False, "leave batch, height and width open, up to max_batch and max_imgsz")
    max_batch: int = option(MAX_BATCH, "with dynamic: most images per run; memory is set aside for them", ge=1, le=1024)
    max_imgsz: ImageSize | None = option(
        None, "with dynamic: largest input size, one side, or height,width; default: twice imgsz", ge=32, le=16384
    )
    workspace: float | None = option(
        None, "GiB of GPU memory that building may use for scratch; default: what the GPU has", gt=0, le=1024
    )
