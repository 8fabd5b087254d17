"""The torch backend keeps the contract of all runtimes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from segx.options.verbs import SessionOptions
from segx.testing import BackendContract
from segx.testing.scenes import NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import Artifact


class TestTorch(BackendContract):
    """With a checkpoint of its own, which takes any size."""

    distribution = "segx-torch"
    name = "torch"
    format = "pt"

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(cls, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        """A saved model of the real family."""
        return _saved(tiny, tmp_path_factory.mktemp("model") / "tiny.pt")

    @pytest.fixture(scope="class")
    @classmethod
    def dynamic_artifact(cls, artifact: Artifact) -> Artifact:
        """The same: a checkpoint takes any size."""
        return artifact


class TestTorchOnSafetensors(TestTorch):
    """With the same model as safetensors."""

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(cls, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        """A saved model of the real family."""
        return _saved(tiny, tmp_path_factory.mktemp("model") / "tiny.safetensors")


def _saved(tiny: Any, path: Path) -> Artifact:
    from segx_torch.session import TorchSession

    info = tiny.architecture.info(tiny.config, NAMES).replace(imgsz=(64, 96))
    session = TorchSession(tiny.module, tiny.config, tiny.architecture, info, SessionOptions(device="cpu"))
    return session.save(path)
