"""What every plugin keeps, the drawing of data sets keeps."""

from __future__ import annotations

from segx.testing import PluginContract


class TestContract(PluginContract):
    distribution = "segx-data-synth"
