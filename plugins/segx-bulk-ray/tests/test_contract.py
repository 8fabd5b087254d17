"""What every plugin keeps, bulk prediction keeps."""

from __future__ import annotations

from segx.testing import PluginContract


class TestContract(PluginContract):
    distribution = "segx-bulk-ray"
