"""Fixtures of the command line's tests: one call in this process, with what it printed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from segx_cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a call ended.

    Attributes:
        code: Its exit code.
        out: What it printed to standard output.
        err: What it printed to standard error.
    """

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


@pytest.fixture
def segx(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs ``segx`` in this process: ``segx("predict", "model=x")``."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own folder and cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEGX_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model of three classes with random weights, which opens in a moment."""
    from segx import YOLO
    from segx.testing.models import TINY_YOLOV8

    folder = tmp_path_factory.mktemp("tiny")
    definition = folder / "tiny-seg.yaml"
    definition.write_text(TINY_YOLOV8)
    return YOLO(definition).save(folder / "tiny-seg.pt")


@pytest.fixture(scope="session")
def tiny_onnx(tiny_model: Path) -> Path:
    """The same model as an ONNX file for images of 64 x 64."""
    from segx import YOLO

    return YOLO(tiny_model).export("onnx", imgsz=64, verify=False).path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two drawn images."""
    import cv2
    import numpy as np

    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        image = np.full((80, 120, 3), 90, np.uint8)
        cv2.circle(image, (40 + 20 * number, 40), 25, (20, 90, 230), -1)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder
