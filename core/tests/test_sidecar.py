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


def test_a_table_of_many_classes_is_read_and_one_of_too_many_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "m_openvino_model"
    folder.mkdir()
    info = ArtifactInfo(names={number: f"class number {number}" for number in range(20_000)})
    sidecar.write(folder, info)
    assert sidecar.read(folder) == info
    with sidecar.folder_sidecar_path(folder).open("a") as file:
        file.writelines(f"other{number}: class number {number}\n" for number in range(100_000))
    with pytest.raises(ModelError, match=r"metadata\.yaml: cannot be read \(it has \d MiB, more than the 2 that"):
        sidecar.read(folder)


@pytest.mark.parametrize("name", ["/dev/zero", "../x", "a/../../x", "..", "", "a//b", "a\\b", "a\0b", "C:x"])
def test_files_that_are_not_in_the_folder_are_not_of_the_model(tmp_path: Path, name: str) -> None:
    sidecar.write(tmp_path, ArtifactInfo())
    place = sidecar.folder_sidecar_path(tmp_path)
    content = yaml.safe_load(place.read_text())
    content["segx"]["files"] = {name: [0, 0]}
    place.write_text(yaml.safe_dump(content))
    with pytest.raises(ModelError, match="which is no file of the model"):
        sidecar.read(tmp_path)
