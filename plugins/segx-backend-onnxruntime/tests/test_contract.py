"""What every runtime keeps, onnxruntime keeps."""

from __future__ import annotations

from segx.testing import BackendContract


class TestContract(BackendContract):
    distribution = "segx-backend-onnxruntime"
    name = "onnxruntime"
    format = "onnx"
