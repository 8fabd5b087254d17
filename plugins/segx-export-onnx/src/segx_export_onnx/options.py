"""The options ONNX export takes."""

from __future__ import annotations

from segx.options.schema import option
from segx.options.verbs import CalibrationOptions, SuppressionOptions

OLDEST_INT8 = 13
"""The first whose 8-bit numbers know channels."""
OLDEST_OPSET, NEWEST_OPSET = 11, 27
"""11 is the first whose Resize does what the models need; 27 the last that was seen running."""


class OnnxOptions(SuppressionOptions, CalibrationOptions):
    """Options of ``format=onnx``."""

    half: bool = option(False, "16-bit weights and arithmetic; inputs and outputs stay 32-bit, so it opens everywhere")
    dynamic: bool = option(False, "leave batch, height and width open; imgsz stays the size it is used with by default")
    simplify: bool = option(True, "fold constants and drop nodes that do nothing (onnxslim)")
    opset: int = option(
        18, "version of the operator set; lower it for an old runtime", ge=OLDEST_OPSET, le=NEWEST_OPSET
    )
