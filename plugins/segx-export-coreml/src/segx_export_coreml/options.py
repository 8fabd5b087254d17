"""The options Core ML export takes."""

from __future__ import annotations

from dataclasses import dataclass

from segx.options.schema import option
from segx.options.verbs import ExportOptions


@dataclass(frozen=True, kw_only=True)
class CoreMLOptions(ExportOptions):
    """Options of ``format=coreml``."""

    half: bool = option(False, "16-bit weights and arithmetic, as the Neural Engine wants; outputs stay 32-bit")
    int8: bool = option(False, "8-bit weights, one scale for each channel; arithmetic as with half")
    nms: bool = option(False, "suppress overlapping boxes in the file: it ends in detections with their coefficients")
    conf: float = option(0.25, "with nms: smallest score that counts as found", ge=0, le=1)
    iou: float = option(0.7, "with nms: boxes overlapping more than this are one object", ge=0, le=1)
    max_det: int = option(300, "with nms: rows of the output, the most objects per image", ge=1, le=100_000)
