"""Libraries that take another tool's models and results take these: run for real, skipped where absent."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

import segx
from segx import YOLO
from segx_data_synth.dataset import write_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from segx.structures.results import Results


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "set"
    write_dataset(folder, images=1, val_images=1, imgsz=160)
    return next(folder.rglob("*.jpg"))


@pytest.fixture(scope="module")
def found(photo: Path) -> Results:
    (result,) = YOLO("shapes-seg.pt").predict(photo, conf=0.1, imgsz=160, verbose=False)
    assert len(result) > 1
    return result


def test_supervision(found: Results) -> None:
    sv = pytest.importorskip("supervision")
    detections = sv.Detections.from_ultralytics(found)
    np.testing.assert_allclose(detections.xyxy, found.boxes.xyxy)
    np.testing.assert_allclose(detections.confidence, found.boxes.conf)
    assert detections.class_id.tolist() == found.boxes.cls.astype(int).tolist()
    np.testing.assert_array_equal(np.asarray(detections.mask), found.masks.data.astype(bool))  # type: ignore[attr-defined]
    if tuple(map(int, sv.__version__.split(".")[:2])) >= (0, 19):  # before it kept no names
        assert list(detections.data["class_name"]) == [found.names[number] for number in detections.class_id.tolist()]


def test_sahi(photo: Path, found: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its adapter for the other tool, with the import changed."""
    pytest.importorskip("sahi")
    ours = pytest.importorskip("sahi.models.ultralytics").UltralyticsDetectionModel
    from sahi.predict import get_prediction, get_sliced_prediction

    monkeypatch.setitem(sys.modules, "ultralytics", segx)
    monkeypatch.setattr(ours, "check_dependencies", lambda *_, **__: None)
    model = ours(model_path="shapes-seg.pt", confidence_threshold=0.1, device="cpu", image_size=160)
    objects = get_prediction(str(photo), model).object_prediction_list
    assert sorted(item.category.name for item in objects) == sorted(found.names[int(n)] for n in found.boxes.cls)
    areas = sorted(int(item.mask.bool_mask.sum()) for item in objects)
    np.testing.assert_allclose(areas, sorted(found.areas), rtol=0.05)
    whole = max(cv2.imread(str(photo)).shape)
    sliced = get_sliced_prediction(str(photo), model, slice_height=whole, slice_width=whole)
    assert len(sliced.object_prediction_list) > 0


def test_fiftyone(found: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its converters, which reach for ``utils.ops.scale_masks``, with the import changed; they need no database."""
    convert = pytest.importorskip("fiftyone.utils.ultralytics")
    pytest.importorskip("torchvision")  # which its reader of masks asks for
    monkeypatch.setitem(sys.modules, "ultralytics", segx)
    boxes = convert.to_detections(found).detections
    np.testing.assert_allclose([item.confidence for item in boxes], found.boxes.conf, rtol=1e-6)
    instances = convert.to_instances([found])[0].detections
    assert [item.label for item in instances] == [found.names[int(number)] for number in found.boxes.cls]
    areas = np.array([item.mask.sum() for item in instances])
    np.testing.assert_allclose(areas, found.areas, rtol=0.15)  # of masks cut to boxes in whole pixels
    for tolerance in (1, 2):  # of outlines as they are, and of masks
        lines = convert.to_polylines(found, tolerance=tolerance).polylines
        assert [item.label for item in lines] == [item.label for item in instances]
    with pytest.raises(ImportError, match="segx has no nn"):  # it drives predictor classes
        convert.convert_ultralytics_model(YOLO("shapes-seg.pt"))
