"""What is special to ExecuTorch: what a folder is, is read without it, so that these run where it is not installed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx.artifact import Artifact
from segx.errors import ModelError
from segx.io import sidecar
from segx.options.verbs import SessionOptions
from segx.testing.models import export_file, real_module, tiny_info
from segx.testing.scenes import draw_scene
from segx_backend_executorch.backend import ExecuTorchBackend

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = b"\x18\0\0\0ET12" + bytes(64)


def folder(place: Path, **programs: bytes) -> Artifact:
    path = place / "m_executorch_model"
    path.mkdir()
    for name, content in programs.items():
        (path / f"{name}.pte").write_bytes(content)
    sidecar.write(path, tiny_info())
    return Artifact(path=path, format="executorch")


def test_a_folder_of_any_one_program_is_read(tmp_path: Path) -> None:
    info = ExecuTorchBackend().read_info(folder(tmp_path, whatever=PROGRAM))
    assert (info.names, info.imgsz) == (tiny_info().names, (64, 96))


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ({}, r"holds 0 files \*\.pte, not one"),
        ({"a": PROGRAM, "b": PROGRAM}, r"holds 2 files \*\.pte, not one"),
        ({"a": b"PK\3\4" + bytes(64)}, "does not begin as a program does"),
    ],
    ids=["none", "two", "zip"],
)
def test_what_is_no_such_folder_is_refused_in_one_line(tmp_path: Path, programs: dict[str, bytes], said: str) -> None:
    with pytest.raises(ModelError, match=f"m_executorch_model: is damaged or no ExecuTorch model .*{said}") as caught:
        ExecuTorchBackend().read_info(folder(tmp_path, **programs))
    assert "\n" not in caught.value.message


def test_program_on_the_page_finds_what_segx_finds(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("executorch.runtime", reason="ExecuTorch")
    page = (repository / "docs" / "reference" / "formats" / "executorch.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    made, _ = export_file("executorch", tmp_path, real_module(tiny_info()))
    made.path.rename(tmp_path / "yolov8n-seg_executorch_model")
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", draw_scene().image)
    space: dict[str, Any] = {}
    exec(compile(code, "executorch.md", "exec"), space)
    session = ExecuTorchBackend().open(
        Artifact(path=tmp_path / "yolov8n-seg_executorch_model", format="executorch"), SessionOptions(device="cpu")
    )
    output0, output1 = session.run(space["images"])
    session.close()
    np.testing.assert_array_equal(space["rows"], output0[0].T)
    np.testing.assert_array_equal(space["prototypes"], output1[0])
    assert space["mask"].shape == output1.shape[2:]
