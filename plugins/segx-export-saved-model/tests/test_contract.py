"""What every exporter keeps, the saved_model exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-saved-model"
    name = "saved_model"
    combinations = ({"keras": True, "batch": 2},)
    refused = ({"keras": True, "dynamic": True},)
