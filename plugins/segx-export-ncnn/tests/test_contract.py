"""What every exporter keeps, the ncnn exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-ncnn"
    name = "ncnn"
    combinations = ({"half": True, "dynamic": True},)
    refused = (
        {"dynamic": True, "batch": 2},
        {"int8": True, "dynamic": True},
        {"int8": True, "half": True},
    )
