"""The options export to a frozen graph takes."""

from __future__ import annotations

from segx.options.schema import option
from segx.options.verbs import ExportOptions


class PbOptions(ExportOptions):
    """Options of ``format=pb``."""

    dynamic: bool = option(False, "leave batch, height and width open; imgsz stays the size it is used with by default")
