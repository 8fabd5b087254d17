"""What every exporter keeps, the onnx exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-onnx"
    name = "onnx"
    combinations = (
        {"opset": 17, "dynamic": True},
        {"opset": 11, "half": True, "simplify": False},
        {"half": True, "dynamic": True},
        {"dynamic": True, "batch": 2},
    )
