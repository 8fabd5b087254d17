"""What every exporter keeps, the ExecuTorch exporter keeps."""

from __future__ import annotations

from segx.testing import ExporterContract


class TestContract(ExporterContract):
    distribution = "segx-export-executorch"
    name = "executorch"
