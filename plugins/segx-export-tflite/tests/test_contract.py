"""What every exporter keeps, the tflite exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-tflite"
    name = "tflite"
    combinations = ({"int8": True, "values": "uint8"},)
    refused = ({"values": "uint8"}, {"values": "int8", "half": True})
