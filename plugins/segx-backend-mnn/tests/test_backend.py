"""What is special to MNN: a text in a flatbuffer, that other tools fill too, and numbers as exact as the file's."""

from __future__ import annotations

import contextlib
import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from segx.artifact import Artifact
from segx.errors import ModelError
from segx.io import sidecar
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.testing.models import export_file, real_module, run_module, tiny_info
from segx.testing.scenes import noise_images
from segx_backend_mnn.backend import MnnBackend

if TYPE_CHECKING:
    from pathlib import Path

    from segx.plugin.jobs import ExportModule

BACKEND = MnnBackend()
FOREIGN = {
    "description": "Some YOLOv8n-seg model",
    "author": "Somebody",
    "stride": 32,
    "task": "segment",
    "batch": 1,
    "imgsz": [64, 96],
    "names": {0: "person", 1: "bicycle", 2: "car"},
    "args": {"batch": 1, "half": False},
}

net = pytest.importorskip("segx_export_mnn.net", reason="what writes an .mnn file")


@pytest.fixture(scope="module")
def module() -> ExportModule:
    pytest.importorskip("segx_model_yolov8")
    return real_module(tiny_info())


@pytest.fixture(scope="module")
def made(module: ExportModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_file("mnn", tmp_path_factory.mktemp("made"), module)[0].path


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Artifact:
    """A copy that may be changed."""
    return Artifact(path=shutil.copy(made, tmp_path / "m.mnn"), format="mnn")


def test_files_of_other_tools_open(artifact: Artifact, module: ExportModule) -> None:
    net.write_text(artifact.path, json.dumps(FOREIGN))
    backend = get_registry().backends.load("mnn")
    session = backend.open(artifact, SessionOptions(device="cpu"))
    assert dict(session.info.names) == FOREIGN["names"]
    assert (session.info.imgsz, session.info.outputs) == ((64, 96), ("output0", "output1"))
    images = noise_images((1, 3, 64, 96))
    for ours, theirs in zip(session.run(images), run_module(module, images), strict=True):
        # An exact convolution; by large tiles it is off by 20 times as much.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())
    session.close()


def test_a_file_without_metadata_is_described_by_what_lies_beside(artifact: Artifact) -> None:
    net.write_text(artifact.path, "MNN")  # what MNN writes of itself
    with pytest.raises(ModelError, match=r"m\.mnn: carries no metadata"):
        BACKEND.read_info(artifact)
    sidecar.write(artifact.path, tiny_info())
    assert BACKEND.read_info(artifact).names == tiny_info().names


def test_every_cut_of_a_file_is_reported(artifact: Artifact) -> None:
    content = artifact.path.read_bytes()
    for end in range(1, len(content) - 4, len(content) // 60):
        artifact.path.write_bytes(content[:end])
        with pytest.raises(ModelError, match="damaged"):
            BACKEND.read_info(Artifact(path=artifact.path, format="mnn"))


def test_whatever_bytes_are_changed_it_is_read_or_refused(artifact: Artifact) -> None:
    content = artifact.path.read_bytes()
    random = np.random.default_rng(7)
    for _ in range(300):
        changed = bytearray(content)
        for place in random.integers(0, 200, 3):
            changed[place] = random.integers(256)
        artifact.path.write_bytes(changed)
        with contextlib.suppress(ModelError):  # any other error is a fault
            BACKEND.read_info(Artifact(path=artifact.path, format="mnn"))
