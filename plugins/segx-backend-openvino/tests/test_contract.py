"""What every runtime keeps, OpenVINO keeps, for its own folders and for ONNX files."""

from __future__ import annotations

from segx.testing import BackendContract


class TestFolder(BackendContract):
    distribution = "segx-backend-openvino"
    name = "openvino"
    format = "openvino"


class TestOnnx(BackendContract):
    distribution = "segx-backend-openvino"
    name = "openvino"
    format = "onnx"
