"""The options Paddle export takes."""

from __future__ import annotations

from dataclasses import dataclass

from segx.options.schema import option
from segx.options.verbs import ExportOptions


@dataclass(frozen=True, kw_only=True)
class PaddleOptions(ExportOptions):
    """Options of ``format=paddle``."""

    dynamic: bool = option(False, "leave batch, height and width open; imgsz stays the size it is used with by default")
