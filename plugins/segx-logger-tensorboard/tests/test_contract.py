"""What every plugin keeps, the TensorBoard logger keeps."""

from __future__ import annotations

from segx.testing import PluginContract


class TestContract(PluginContract):
    distribution = "segx-logger-tensorboard"
