"""The options Core ML export takes."""

from __future__ import annotations

from dataclasses import dataclass

from segx.options.schema import option
from segx.options.verbs import SuppressionOptions


@dataclass(frozen=True, kw_only=True)
class CoreMLOptions(SuppressionOptions):
    """Options of ``format=coreml``."""

    half: bool = option(False, "16-bit weights and arithmetic, as the Neural Engine wants; outputs stay 32-bit")
    int8: bool = option(False, "8-bit weights, one scale for each channel; arithmetic as with half")
