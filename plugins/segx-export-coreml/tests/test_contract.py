"""What every exporter keeps, the Core ML exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-coreml"
    in_child = ("coremltools",)
    name = "coreml"
    refused = ({"conf": 0.5}, {"iou": 0.5}, {"max_det": 100})
