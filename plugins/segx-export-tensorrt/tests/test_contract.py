"""What every exporter keeps, the engine exporter keeps; what builds takes TensorRT and a GPU."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-tensorrt"
    name = "engine"
    combinations = ({"nms": True}, {"dynamic": True, "half": True})
    refused = (
        {"dynamic": True, "batch": 2},
        {"max_batch": 4},
        {"max_imgsz": 320},
        {"dynamic": True, "max_imgsz": 32},
        {"device": "mps"},
        {"conf": 0.5},
    )
