"""The TorchScript backend keeps the contract of all runtimes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from segx.testing import BackendContract
from segx.testing.models import tiny_info

if TYPE_CHECKING:
    from segx.artifact import Artifact


class TestTorchScript(BackendContract):
    """With files traced here."""

    distribution = "segx-backend-torchscript"
    name = "torchscript"
    format = "torchscript"

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(cls, write_torchscript: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        """A model of one size."""
        return write_torchscript(tmp_path_factory.mktemp("model") / "tiny.torchscript", tiny_info())

    @pytest.fixture(scope="class")
    @classmethod
    def dynamic_artifact(cls, write_torchscript: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        """The tiny model is convolutions only: traced, it takes any size."""
        return write_torchscript(tmp_path_factory.mktemp("dynamic") / "tiny.torchscript", tiny_info(dynamic=True))
