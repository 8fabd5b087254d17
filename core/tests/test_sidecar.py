"""Info beside and inside models survives the way to disk and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from segx.artifact import ArtifactInfo, Parity
from segx.errors import ModelError
from segx.io import sidecar

if TYPE_CHECKING:
    from pathlib import Path

INFO = ArtifactInfo(
    names={0: "person", 1: "it's"},
    imgsz=(320, 640),
    batch=2,
    dynamic=frozenset({"batch"}),
    precision="int8",
    date="2026-11-23T10:00:00+00:00",
    parity=Parity(images=4, raw={"output0": 0.5}, box=0.1, score=0.01, mask_iou=0.99, objects=7, matched=1.0),
)


@pytest.fixture(params=["file", "folder"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "m.tflite"
    if request.param == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"weights")
    return path


def test_what_is_written_is_read(model: Path) -> None:
    written = sidecar.write(model, INFO)
    assert written.is_file()
    assert sidecar.read(model) == INFO
    assert [item.name for item in written.parent.iterdir() if item.name.startswith(".")] == []


def test_nothing_written_reads_as_none(model: Path) -> None:
    assert sidecar.read(model) is None


def test_other_tools_find_their_types(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    content = yaml.safe_load(sidecar.write(tmp_path / "folder", INFO).read_text(encoding="utf-8"))
    assert (content["stride"], content["imgsz"], content["batch"]) == (32, [320, 640], 2)
    assert content["names"] == {0: "person", 1: "it's"}
    beside = sidecar.write(tmp_path / "x.onnx", INFO)
    assert beside.name == "x.onnx.segx.json"
    assert json.loads(beside.read_text(encoding="utf-8"))["names"]["1"] == "it's"


@pytest.mark.parametrize("content", ["[1, 2]", "{not json", '{"names": "what"}', "\x00"])
def test_damage_is_reported_with_the_file(tmp_path: Path, content: str) -> None:
    sidecar.sidecar_path(tmp_path / "x.onnx").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"x\.onnx\.segx\.json"):
        sidecar.read(tmp_path / "x.onnx")
