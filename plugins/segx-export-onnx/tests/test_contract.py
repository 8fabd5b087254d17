"""What every exporter keeps, the onnx exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-onnx"
    name = "onnx"
    combinations = ({"simplify": False}, {"opset": 17}, {"opset": 12, "dynamic": True}, {"half": True, "dynamic": True})
    refused = ({"dynamic": True, "batch": 2},)
