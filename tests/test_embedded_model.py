"""The model that comes with segx: there without a download, its own, and as good as its page says."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx import YOLO
from segx.plugin.registry import get_registry
from segx.structures.masks import Masks
from segx_data_synth.dataset import image, write_dataset
from segx_data_synth.shapes import SHAPES

if TYPE_CHECKING:
    from pathlib import Path

    from segx.structures.results import Results

NAME = "shapes-seg.pt"


@pytest.fixture(scope="module")
def file() -> Path:
    """Where it is."""
    weights = get_registry().weights_file(NAME)
    assert weights is not None
    assert weights.path is not None
    return weights.path


@pytest.fixture(scope="module")
def stated(file: Path) -> dict[str, Any]:
    """What the file beside it says."""
    content: dict[str, Any] = json.loads(file.with_suffix(".json").read_text())
    return content


def test_it_opens_by_name_offline_and_away_from_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGX_OFFLINE", "1")
    model = YOLO(NAME)
    assert list(model.names.values()) == list(SHAPES)
    assert model.task == "segment"


def test_it_is_small_and_holds_nothing_of_a_run(file: Path) -> None:
    import torch

    content = torch.load(file, weights_only=True)
    assert file.stat().st_size < 3 << 20
    assert not content.get("training")
    assert {tensor.dtype for tensor in content["weights"].values() if tensor.is_floating_point()} == {torch.float16}
    words = re.split(r'[\s"\']', json.dumps(content["metadata"]))
    assert not [word for word in words if word.startswith("/")], "a path of the maker's machine"


def test_it_goes_into_the_wheel(file: Path, repository: Path) -> None:
    """Git leaves out weights, and so would the wheel."""
    project = repository / "plugins" / "segx-model-yolov8"
    build = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    for target in ("wheel", "sdist"):
        assert file.resolve() in {
            found.resolve() for name in build[target]["artifacts"] for found in project.glob(name)
        }


def test_it_finds_what_is_drawn(stated: dict[str, Any]) -> None:
    """On images that neither training nor validation has seen."""
    seed = stated["recipe"]["seed"] + 1000
    model, overlaps = YOLO(NAME), []
    for index in range(20):
        drawn = image(seed, "val", index, 256)
        result: Results = model(drawn.image, imgsz=256, verbose=False)[0]
        for item in drawn.objects:
            if item.mask.sum() > 400 and not _cut(item.mask):
                annotation = Masks.from_bitmaps([item.mask.view(np.uint8)], np.zeros((1, 2), np.int32), item.mask.shape)
                same = np.flatnonzero(result.boxes.cls == item.category)
                overlaps.append(result.masks[same].iou(annotation).max(initial=0.0))
    assert len(overlaps) > 30
    assert np.mean(np.array(overlaps) > 0.5) > 0.7


def _cut(mask: np.ndarray[Any, Any]) -> bool:
    """Return True if an object reaches the rim of its image or is seen in parts."""
    rim = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
    return bool(rim) or cv2.connectedComponents(mask.view(np.uint8))[0] > 2


@pytest.mark.slow
def test_its_figures_are_those_stated(file: Path, stated: dict[str, Any], tmp_path: Path) -> None:
    recipe = stated["recipe"]
    data = write_dataset(tmp_path / "shapes", images=1, val_images=200, imgsz=256, seed=recipe["seed"], workers=2)
    metrics = YOLO(NAME).val(data=data, imgsz=recipe["imgsz"], plots=False, show=False)
    assert metrics.seg.map == pytest.approx(stated["figures"]["coco/AP(M)"], abs=0.003)
    assert metrics.box.map == pytest.approx(stated["figures"]["coco/AP(B)"], abs=0.003)
    row = re.search(r"mask AP .50:.95 / .50 / .75 \| (.*) \|", file.with_name("README.md").read_text())
    assert row is not None
    on_the_page = [float(value) for value in row[1].split(" / ")]
    assert on_the_page == pytest.approx([metrics.seg.map, metrics.seg.map50, metrics.seg.map75], abs=0.003)
