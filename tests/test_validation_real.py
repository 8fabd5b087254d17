"""On real images the figures are pycocotools', for the same detections, and from JSON and labels alike."""

from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segx import YOLO
from segx.data.splits import open_dataset
from segx.structures.annotations import masks_of
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks
from segx_cli.main import main
from segx_task_segment.predictions import PredictionsFile
from segx_task_segment.results import SegmentResults as Results
from segx_task_segment.validation import SegmentEvaluator

if TYPE_CHECKING:
    from pathlib import Path

    from segx.structures.annotations import Sample

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),  # pycocotools
]

FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100")
FIGURES += ("AR_small", "AR_medium", "AR_large")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def annotations(real_data: Path) -> Path:
    return real_data / "coco-mini" / "annotations" / "instances_val2017.json"


def judged(annotations: Path, rows: list[dict[str, Any]], kind: str, images: list[int] | None = None) -> np.ndarray:
    """The twelve figures of pycocotools; areas of masks are those of masks, so rows of masks carry no box."""
    unwanted = "segmentation" if kind == "bbox" else "bbox"
    with contextlib.redirect_stdout(io.StringIO()):
        annotation = COCO(str(annotations))
        found = annotation.loadRes([{name: value for name, value in row.items() if name != unwanted} for row in rows])
        judge = COCOeval(annotation, found, kind)
        if images is not None:
            judge.params.imgIds = images
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return np.where(judge.stats == -1, np.nan, judge.stats)


def jitter(rng: np.random.Generator, sample: Sample, names: Any) -> Results:
    """Detections made of the ground truth: shifted, doubled, of a wrong class, on crowds, with scores that repeat."""
    height, width = sample.shape
    dense, classes = [np.zeros((height, width), np.uint8)], [0]
    for annotation in sample.annotations:
        mask = masks_of([annotation], sample.shape, boxes=True).data[0]
        for _ in range(rng.integers(1, 4)):
            dense.append(np.roll(mask, rng.integers(-6, 7, 2).tolist(), (0, 1)))
            classes.append(annotation.category if rng.random() < 0.9 else int(rng.integers(80)))
    masks = Masks.from_dense(np.array(dense))[1:]
    scores = np.round(rng.random(len(masks)), 2)
    boxes = masks.bounds + rng.uniform(-3, 3, (len(masks), 4))
    data = np.column_stack([boxes, scores, classes[1:]]).astype(np.float32).reshape(-1, 6)
    image = np.zeros((height, width, 3), np.uint8)
    return Results(orig_img=image, path="", names=names, boxes=Boxes(data, sample.shape), masks=masks)


def test_figures_of_made_up_detections_are_those_of_pycocotools(annotations: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dataset = open_dataset(annotations)
    assert sum(annotation.crowd for sample in dataset for annotation in sample.annotations) == 7
    assert any(len(annotation.polygons) > 1 for sample in dataset for annotation in sample.annotations)
    evaluator = SegmentEvaluator(dataset.names)
    predictions = PredictionsFile(tmp_path / "predictions.json", dataset.category_ids)
    for index in rng.permutation(len(dataset)).tolist():
        sample = dataset[index]
        predictions.add(evaluator.update(sample, jitter(rng, sample, dataset.names)))
    metrics = evaluator.finish()
    rows = json.loads(predictions.close().read_text())
    for kind, ours in (("bbox", metrics.box), ("segm", metrics.seg)):
        expected = judged(annotations, rows, kind)
        assert expected[0] > 0.2
        np.testing.assert_allclose([ours.coco[name] for name in FIGURES], expected, atol=1e-9, err_msg=kind)


@pytest.fixture(scope="module")
def some(annotations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first twenty images as a JSON of their own; their images are elsewhere."""
    content = json.loads(annotations.read_text())
    content["images"] = content["images"][:20]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
    path = tmp_path_factory.mktemp("some") / "some.json"
    path.write_text(json.dumps(content))
    return path


def test_a_real_model_is_measured_as_pycocotools_measures_its_predictions(
    real_data: Path, some: Path, tmp_path: Path
) -> None:
    model = YOLO(real_data / "weights" / "yolov8n-seg.pt")
    images = real_data / "coco-mini" / "images" / "val2017"
    chosen = {"data": str(some), "images": images, "imgsz": 320, "device": "cpu", "save_json": True, "plots": False}
    metrics: Any = model.val(**chosen, project=tmp_path / "runs")
    rows = json.loads((tmp_path / "runs" / "val" / "predictions.json").read_text())
    assert len(rows) == metrics.detections > 500
    for kind, ours in (("bbox", metrics.box), ("segm", metrics.seg)):
        expected = judged(some, rows, kind)
        assert expected[0] > 0.2
        np.testing.assert_allclose([ours.coco[name] for name in FIGURES], expected, atol=1e-9, err_msg=kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_every_format_of_a_model_scores_the_same(real_data: Path, some: Path, tmp_path: Path, kind: str) -> None:
    chosen = {
        "data": str(some),
        "images": real_data / "coco-mini" / "images" / "val2017",
        "rect": False,
        "device": "cpu",
        "plots": False,
    }
    source = tmp_path / "model.pt"
    source.write_bytes((real_data / "weights" / "yolov8n-seg.pt").read_bytes())
    model = YOLO(source)
    before: Any = model.val(**chosen, imgsz=160)
    exported = YOLO(model.export(format=kind, imgsz=160, verify=False))
    after: Any = exported.val(**chosen)
    assert before.seg.map > 0.1
    assert after.seg.map == pytest.approx(before.seg.map, abs=0.002)
    assert after.box.map == pytest.approx(before.box.map, abs=0.002)


def test_the_command_line_prints_figures(real_data: Path, some: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["segment", "val", f"model={real_data / 'weights' / 'yolov8n-seg.pt'}", f"data={some}", "imgsz=64"]
    line += [f"images={real_data / 'coco-mini' / 'images' / 'val2017'}", "plots=false", "device=cpu"]
    assert main([*line, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["images"] == 20
    assert "COCO protocol" in document["protocol"]
    assert main([*line, "verbose=false", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert f"{document['results']['metrics/mAP50-95(M)']:.3f}" in out
    assert document["protocol"] in out
    assert main([*line, "split=test"]) == 0  # a JSON is all there is, whatever the split is called
    assert main([*line, "conf=2"]) == 2


def test_labels_hold_what_the_json_holds_but_crowds_and_parts(real_data: Path, annotations: Path) -> None:
    by_json = open_dataset(annotations)
    by_labels = open_dataset(real_data / "coco-mini" / "coco-mini-seg.yaml")
    assert not by_labels.problems
    assert dict(by_labels.names) == dict(by_json.names)
    assert len(by_labels) == len(by_json) == 103
    samples = {sample.id: sample for sample in by_labels}
    for sample in by_json:
        other = samples[sample.id]
        assert other.shape == sample.shape
        assert sorted(annotation.category for annotation in other.annotations) == sorted(
            annotation.category for annotation in sample.annotations if not annotation.crowd
        )
