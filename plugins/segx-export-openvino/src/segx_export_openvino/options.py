"""The options OpenVINO export takes."""

from __future__ import annotations

from segx.options.schema import option
from segx.options.verbs import CalibrationOptions, SuppressionOptions


class OpenvinoOptions(CalibrationOptions, SuppressionOptions):
    """Options of ``format=openvino``."""

    half: bool = option(False, "16-bit weights: half the size; a CPU computes in 32 bits, a GPU in 16")
    bf16: bool = option(False, "16-bit weights, and arithmetic in bfloat16 on CPUs that have it, which is faster there")
    dynamic: bool = option(False, "leave batch, height and width open; imgsz stays the size it is used with by default")

    @property
    def precision(self) -> str:
        """The precision asked for."""
        return "bf16" if self.bf16 and not self.int8 else super().precision
