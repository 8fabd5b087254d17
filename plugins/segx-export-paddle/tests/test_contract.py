"""What every exporter keeps, the paddle exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-paddle"
    name = "paddle"
    combinations = ({"batch": 2},)
