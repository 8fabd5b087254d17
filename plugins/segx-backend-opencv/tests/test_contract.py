"""What every runtime keeps, OpenCV keeps."""

from __future__ import annotations

from typing import ClassVar

from segx.testing import BackendContract


class TestContract(BackendContract):
    distribution = "segx-backend-opencv"
    name = "opencv"
    format = "onnx"
    xfail: ClassVar = {
        "test_stays_apart": "segx itself reads images with OpenCV; the process of its own is for the number of threads"
    }
