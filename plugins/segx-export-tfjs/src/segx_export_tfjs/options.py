"""The options export to TensorFlow.js takes."""

from __future__ import annotations

from segx.options.schema import option
from segx.options.verbs import ExportOptions


class TfjsOptions(ExportOptions):
    """Options of ``format=tfjs``."""

    half: bool = option(False, "16-bit weights: half the size to download; arithmetic is what the browser has")
    int8: bool = option(False, "8-bit weights, a scale for each channel: a quarter of the size; arithmetic as ever")
