"""What every runtime keeps, the executor of Core ML programs keeps; Core ML itself where it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from segx.testing import BackendContract

if TYPE_CHECKING:
    from segx.artifact import Artifact


class _OfOneSize(BackendContract):
    distribution = "segx-backend-coreml"
    format = "coreml"

    @pytest.fixture(scope="class")
    @classmethod
    def dynamic_artifact(cls) -> Artifact | None:
        """Packages of one size only."""
        return None


class TestReference(_OfOneSize):
    name = "coreml-reference"


class TestCoreML(_OfOneSize):
    name = "coreml"
