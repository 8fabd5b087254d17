"""The program on the documentation's page of the format finds what segx finds, with the executor in Core ML's place."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segx import YOLO
from segx_backend_coreml.executor import Executor
from segx_backend_coreml.package import read_package
from segx_backend_coreml.program import read_program


class MLModel:
    """What coremltools' class of this name does, as far as the page uses it."""

    def __init__(self, path: str) -> None:
        package = read_package(Path(path))
        self.user_defined_metadata = package.metadata
        self._run = Executor(read_program(package))

    def predict(self, given: dict[str, Any]) -> dict[str, Any]:
        return self._run(given["images"])


@pytest.mark.slow
@pytest.mark.real
def test_program_on_the_page(
    real_data: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (repository / "docs" / "reference" / "formats" / "coreml.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    photo = next(iter(sorted((real_data / "coco-mini" / "images" / "val2017").glob("*.jpg"))))
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    (tmp_path / "yolov8n-seg.pt").write_bytes((real_data / "weights" / "yolov8n-seg.pt").read_bytes())
    played: Any = types.ModuleType("coremltools")
    played.models = types.SimpleNamespace(MLModel=MLModel)
    monkeypatch.setitem(sys.modules, "coremltools", played)
    monkeypatch.chdir(tmp_path)
    YOLO("yolov8n-seg.pt").export("coreml", nms=True)
    space: dict[str, Any] = {}
    exec(compile(code, "coreml.md", "exec"), space)

    wanted = YOLO("yolov8n-seg.pt").predict("photo.jpg", save=False, rect=False)[0]
    found = space["objects"]
    assert len(found) == len(wanted) >= 5
    for (name, score, box, mask), theirs in zip(found, wanted, strict=True):
        assert name == theirs.names[int(theirs.boxes.cls[0])]
        assert abs(score - theirs.boxes.conf[0]) < 0.02
        assert np.abs(box - theirs.boxes.xyxy[0]).max() < 5
        own = np.asarray(theirs.masks.data[0]) > 0
        assert (mask & own).sum() > 0.8 * (mask | own).sum()
