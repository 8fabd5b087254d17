"""What every exporter keeps, the MNN exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-mnn"
    name = "mnn"
    combinations = ({"half": True, "dynamic": True},)
    refused = ({"int8": True, "half": True},)
