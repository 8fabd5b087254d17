"""Packages that the backend is tested with: the exporter's, and some as other tools write them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from segx.plugin.registry import get_registry
from segx.testing.models import export_file, tiny_info, tiny_module

if TYPE_CHECKING:
    from segx.artifact import Artifact


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The tiny model as the installed exporter writes it."""
    pytest.importorskip("torch", reason="writing a model takes torch")
    if get_registry().exporters.find("coreml") is None:
        pytest.skip("nothing here writes Core ML")
    artifact, _ = export_file("coreml", tmp_path_factory.mktemp("exported"), tiny_module(tiny_info()))
    return artifact


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages as other tools write them: see ``make_packages.py``."""
    folder = tmp_path_factory.mktemp("foreign")
    script = Path(__file__).with_name("make_packages.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
    if "No module named 'coremltools'" in done.stderr:
        pytest.skip("coremltools is not installed")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder
