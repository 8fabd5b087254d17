"""What every exporter keeps, the torchscript exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-torchscript"
    name = "torchscript"
    combinations = ({"optimize": True}, {"optimize": True, "dynamic": True})
    refused = ({"half": True}, {"half": True, "device": "cpu"})
