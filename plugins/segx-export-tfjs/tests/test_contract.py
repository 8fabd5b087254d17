"""What every exporter keeps, the TensorFlow.js exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-tfjs"
    name = "tfjs"
