"""What every runtime keeps, OpenCV keeps."""

from __future__ import annotations

from segx.testing import BackendContract


class TestContract(BackendContract):
    distribution = "segx-backend-opencv"
    name = "opencv"
    format = "onnx"
