"""The options Paddle export takes."""

from __future__ import annotations

from segx.options.schema import option
from segx.options.verbs import ExportOptions


class PaddleOptions(ExportOptions):
    """Options of ``format=paddle``."""

    dynamic: bool = option(False, "leave batch, height and width open; imgsz stays the size it is used with by default")
