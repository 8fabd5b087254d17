"""The options Core ML export takes."""

from __future__ import annotations

from pathlib import Path

from segx.options.schema import option
from segx.options.verbs import SuppressionOptions


class CoreMLOptions(SuppressionOptions):
    """Options of ``format=coreml``."""

    half: bool = option(False, "16-bit weights and arithmetic, as the Neural Engine wants; outputs stay 32-bit")
    int8: bool = option(False, "8-bit weights, one scale for each channel; arithmetic as with half")
    data: str | None = option(
        None, "data set to prove the result on: a YAML, a COCO JSON, or a known name; 8-bit weights are made without"
    )
    split: str = option("train", "which part of the data set")
    images: Path | None = option(None, "folder of the images, when a COCO JSON's are not found beside it")
