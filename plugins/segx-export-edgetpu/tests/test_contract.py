"""What every exporter keeps, the edgetpu exporter keeps, with a stand-in for Coral's compiler."""

from __future__ import annotations

import pytest

from segx.testing import ExporterContract


@pytest.mark.usefixtures("with_compiler")
class TestContract(ExporterContract):
    distribution = "segx-export-edgetpu"
    name = "edgetpu"
    combinations = ({"compile": False},)
