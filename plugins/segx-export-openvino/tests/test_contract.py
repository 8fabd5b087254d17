"""What every exporter keeps, the openvino exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-openvino"
    name = "openvino"
    combinations = ({"bf16": True}, {"half": True, "dynamic": True}, {"int8": True, "batch": 2})
    refused = ({"half": True, "int8": True}, {"bf16": True, "half": True})
