"""The options MNN export takes."""

from __future__ import annotations

from segx.options.schema import option
from segx.options.verbs import ExportOptions


class MnnOptions(ExportOptions):
    """Options of ``format=mnn``."""

    half: bool = option(False, "16-bit weights")
    int8: bool = option(False, "8-bit weights; arithmetic stays as it is, so no images are needed")
    dynamic: bool = option(False, "leave batch, height and width open; imgsz stays the size it is used with by default")
