"""What every exporter keeps, the pb exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-pb"
    name = "pb"
