"""Validation through every layer: data set, network, task, figures and what is written."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import logging
import re
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx.artifact import ArtifactInfo
from segx.data.convert import convert
from segx.data.splits import open_dataset
from segx.errors import DataError, UsageError
from segx.flows.predict import predict
from segx.flows.val import class_map, validate
from segx.io.sources import open_source
from segx.options.verbs import DataConvertOptions, PredictOptions, ValOptions
from segx.plugin.registry import get_registry
from segx.structures.masks import Masks
from segx.structures.results import Results
from segx.testing.scenes import NAMES, ColorSession, draw_scene

if TYPE_CHECKING:
    from pathlib import Path

SIZES = [(120, 160), (200, 90), (64, 64), (120, 160), (160, 120)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Drawn images as COCO JSON, the last without objects."""
    (tmp_path / "images").mkdir()
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 10 * number + 7, "name": name} for number, name in NAMES.items()]
    for image, (height, width) in enumerate(SIZES, start=1):
        scene = draw_scene(height, width, objects=3 if image < len(SIZES) else 0)
        cv2.imwrite(str(tmp_path / "images" / f"{image}.png"), scene.image)
        content["images"].append({"id": image, "file_name": f"{image}.png", "height": height, "width": width})
        for item in scene.objects:
            (rle,) = Masks.from_dense(item.mask[None]).rle
            x1, y1, x2, y2 = item.box
            content["annotations"].append(
                {
                    "id": 100 + len(content["annotations"]),
                    "image_id": image,
                    "category_id": 10 * item.category + 7,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(item.mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def options(data: Path | str | None = None, **values: Any) -> ValOptions:
    return ValOptions.parse({"data": None if data is None else str(data), "plots": False, **values})


def in_training(dataset: Any, chosen: ValOptions, session: Any = None) -> Any:
    """Measure as training does after an epoch: nobody hears of it, and nothing is written."""
    return validate(session or ColorSession(), chosen, dataset=dataset, announced=False, registry=get_registry())


def test_a_model_that_sees_everything_scores_nearly_one(coco: Path) -> None:
    metrics: Any = validate(ColorSession(), options(coco), model="seeing", registry=get_registry())
    assert metrics.images == len(SIZES)
    assert metrics.box.objects[:, 0].tolist() == [4, 4, 4]
    assert [metrics.box.map50, metrics.seg.map50] == pytest.approx([1, 1])
    assert metrics.box.map > 0.9
    assert metrics.seg.map > 0.6  # prototypes are a quarter of the input
    assert metrics.results_dict["metrics/mAP50(M)"] == pytest.approx(1)
    assert metrics.fitness == metrics.seg.map
    assert set(metrics.speed) == {"preprocess", "inference", "postprocess"}
    assert metrics.settings["data_hash"] in metrics.protocol
    assert metrics.save_dir is None


@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize("axes", [{"batch", "height", "width"}, {"batch"}, set()])
def test_batches_and_fixed_inputs_give_the_same_figures(coco: Path, batch: int, axes: set[str]) -> None:
    info = ArtifactInfo(names=NAMES, imgsz=(320, 320), dynamic=frozenset(axes), batch=2 if not axes else 1)
    figures = in_training(open_dataset(coco), options(batch=batch, rect=False), ColorSession(info)).results_dict
    reference = in_training(open_dataset(coco), options(rect=False)).results_dict
    assert dict(figures) == dict(reference)


def test_images_of_one_input_shape_share_a_batch(coco: Path) -> None:
    shapes: list[tuple[int, ...]] = []

    class Recording(ColorSession):
        def run(self, images: Any) -> Any:
            shapes.append(images.shape)
            return super().run(images)

    in_training(open_dataset(coco), options(batch=4), Recording())
    assert sorted(shape[0] for shape in shapes) == [1, 1, 1, 2]
    assert len({shape[2:] for shape in shapes}) == 4


def test_images_go_no_further_than_the_network(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each result is built once, and only its size is left of the image."""
    built: list[Results] = []
    finish = Results.__post_init__
    monkeypatch.setattr(Results, "__post_init__", lambda self: built.append(self) or finish(self))
    in_training(open_dataset(coco), options())
    assert [result.orig_img for result in built] == [None] * len(SIZES)
    assert sorted(result.orig_shape for result in built) == sorted(SIZES)


@pytest.mark.parametrize("streams", [2, 3])
def test_streams_change_nothing(coco: Path, streams: int) -> None:
    one: Any = validate(ColorSession(), options(coco), model="seeing", registry=get_registry())
    several: Any = validate(ColorSession(), options(coco), model="seeing", registry=get_registry(), streams=streams)
    assert several.results_dict == one.results_dict
    assert several.matches.to_csv() == one.matches.to_csv()


@pytest.mark.parametrize("rect", [True, False])
def test_label_files_are_called_like_the_images_whatever_their_ids(coco: Path, tmp_path: Path, rect: bool) -> None:
    """As predict calls them, and none leaves its folder."""
    content = json.loads(coco.read_text())
    new = dict(zip(range(1, 6), ("../../../up", str(tmp_path / "absolute"), "a\nb", "x" * 300, 7), strict=True))
    names = ("a/1.png", "b/1.png", "000042.png", "scan.v1.png", "pill#1.png")
    for image, name in zip(content["images"], names, strict=True):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / image["file_name"]).rename(tmp_path / "images" / name)
        image |= {"id": new[image["id"]], "file_name": name}
    for row in content["annotations"]:
        row["image_id"] = new[row["image_id"]]
    coco.write_text(json.dumps(content))
    before = set(tmp_path.rglob("*.txt"))
    chosen = options(coco, save_txt=True, save_json=True, rect=rect, project=tmp_path / "runs")
    validate(ColorSession(), chosen, model="seeing", registry=get_registry())
    labels = tmp_path / "runs" / "val" / "labels"
    assert set(tmp_path.rglob("*.txt")) - before == set(labels.iterdir())
    stems = ["1", "1-2", "000042", "scan.v1", "pill#1"]
    assert {path.stem for path in labels.iterdir()} == set(stems)
    source = [tmp_path / "images" / name for name in names]
    predicted = list(
        predict(
            ColorSession(),
            open_source(source),
            PredictOptions.parse({"save_txt": True, "project": tmp_path / "runs"}),
            task=get_registry().tasks.load("segment"),
            notify=lambda *_, **__: None,
        )
    )
    assert [result.stem for result in predicted] == stems
    for stem, result in zip(stems, predicted, strict=True):
        assert len((labels / f"{stem}.txt").read_text().splitlines()) >= len(result), stem


def test_predictions_fit_the_json_that_convert_makes_of_the_same_set(coco: Path, tmp_path: Path) -> None:
    registry = get_registry()
    to_yolo = {"data": str(coco), "to": "yolo", "output": tmp_path / "yolo"}
    yolo = convert(DataConvertOptions.parse(to_yolo), registry).yaml
    back = {"data": str(yolo), "to": "coco", "output": tmp_path / "coco"}
    content = json.loads(
        (convert(DataConvertOptions.parse(back), registry).yaml.parent / "annotations/train.json").read_text()
    )
    chosen = options(yolo, split="train", save_json=True, project=tmp_path / "runs")
    metrics: Any = validate(ColorSession(), chosen, model="seeing", registry=registry)
    rows = json.loads((tmp_path / "runs/val/predictions.json").read_text())
    known = {(image["id"], image["file_name"]) for image in content["images"]}
    assert len({row["image_id"] for row in rows}) == 4
    assert {(row["image_id"], row["file_name"]) for row in rows} <= known
    assert {row.image_id for row in metrics.matches} <= {number for number, _ in known}


def test_everything_asked_for_is_written(coco: Path, tmp_path: Path) -> None:
    chosen = options(coco, plots=True, save_json=True, save_txt=True, project=tmp_path / "runs")
    metrics: Any = validate(ColorSession(), chosen, model="seeing", registry=get_registry())
    folder = tmp_path / "runs" / "val"
    assert metrics.save_dir == folder
    names = {path.name for path in folder.iterdir()}
    assert names >= {"report.html", "metrics.json", "matches.csv", "predictions.json", "labels"}
    assert names >= {f"{kind}{curve}_curve.png" for kind in ("Box", "Mask") for curve in ("PR", "F1", "P", "R")}
    assert names >= {"confusion_matrix.png", "confusion_matrix_normalized.png"}
    assert names >= {"val_batch0_labels.jpg", "val_batch0_pred.jpg"}
    assert {path.name for path in metrics.files} == names - {"labels"}

    rows = json.loads((folder / "predictions.json").read_text())
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    assert {row["category_id"] for row in rows} == {7, 17, 27}
    sizes = dict(enumerate(SIZES, start=1))
    assert all(row["segmentation"]["size"] == list(sizes[row["image_id"]]) for row in rows)

    with (folder / "matches.csv").open() as file:
        table = list(csv.DictReader(file))
    right = [row for row in table if row["outcome"] == "TP" and row["iou_type"] == "mask"]
    assert sorted(int(row["annotation_id"]) for row in right) == list(range(100, 112))
    by_id = {row["id"]: row for row in rows}
    for row in right:
        assert by_id[int(row["detection_id"])]["image_id"] == int(row["image_id"])

    report = (folder / "report.html").read_text()
    assert metrics.protocol in html.unescape(report)
    assert not re.search(r"(?:src|href)=\"(?!data:)", report)  # nothing outside the file
    assert report.count("data:image/png") == 10

    document = json.loads((folder / "metrics.json").read_text())
    assert document["protocol"] == metrics.protocol
    assert sorted(path.stem for path in (folder / "labels").iterdir()) == ["1", "2", "3", "4", "5"]


def test_a_run_that_fails_leaves_no_half_of_a_file(coco: Path, tmp_path: Path) -> None:
    class Failing(ColorSession):
        count = 0

        def run(self, images: Any) -> Any:
            self.count += 1
            if self.count == 3:
                raise ZeroDivisionError
            return super().run(images)

    chosen = options(coco, save_json=True, project=tmp_path / "runs")
    with pytest.raises(ZeroDivisionError):
        validate(Failing(), chosen, model="seeing", registry=get_registry())
    assert not list((tmp_path / "runs" / "val").iterdir())


def test_hooks_are_notified(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = get_registry()
    reported: list[str] = []
    monkeypatch.setattr(registry, "notify", lambda event, **facts: reported.append(event))
    validate(ColorSession(), options(coco, batch=4), model="seeing", registry=registry)
    assert reported[0] == "run_started"
    assert reported[-1] == "run_ended"
    assert reported.count("step_ended") == 4
    reported.clear()
    with pytest.raises(UsageError):
        validate(ColorSession(), options(coco, classes=(9,)), model="seeing", registry=registry)
    assert not reported, "what cannot be is refused before a run begins"

    class Failing(ColorSession):
        def run(self, images: Any) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        validate(Failing(), options(coco), model="seeing", registry=registry)
    assert reported[0] == "run_started"
    assert reported[-1] == "run_failed"


def test_the_data_set_that_a_model_remembers_is_used(coco: Path) -> None:
    info = ColorSession().info
    remembering = ColorSession(info.replace(settings={"data": str(coco)}))
    assert validate(remembering, options(), model="seeing", registry=get_registry()).fitness > 0.6
    with pytest.raises(UsageError, match="no data set is named"):
        validate(ColorSession(), options(), model="seeing", registry=get_registry())


def test_a_remembered_data_set_is_not_downloaded_unasked() -> None:
    remembering = ColorSession(ColorSession().info.replace(settings={"data": "coco.yaml"}))
    with pytest.raises(DataError, match=r"remembers data=coco\.yaml[\s\S]*to download it: data=coco\.yaml"):
        validate(remembering, options(), model="seeing", registry=get_registry())


def test_classes_are_paired_by_name(coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = json.loads(coco.read_text())
    content["categories"][1]["name"] = "Green "
    content["categories"][2]["name"] = "violet"
    coco.write_text(json.dumps(content))
    figures = in_training(open_dataset(coco), options()).results_dict
    assert figures["metrics/mAP50(B)"] == pytest.approx(2 / 3)
    assert "the model cannot find: violet" in caplog.text


def test_class_map() -> None:
    data = {0: "dog", 1: "traffic light"}
    assert class_map(data, data) is None
    assert class_map({}, data) is None
    assert (class_map({0: "cat", 1: "Traffic_Light", 2: "dog"}, data) == [-1, 1, 0]).all()  # type: ignore[union-attr]
    assert class_map({0: "a", 1: "b"}, data) is None
    assert (class_map({0: "a", 1: "b", 2: "c"}, data, single=True) == [0, 0, 0]).all()  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="knows none of the data set's 2 classes"):
        class_map({0: "a"}, data)


def test_single_class_and_chosen_classes(coco: Path) -> None:
    every: Any = in_training(open_dataset(coco), options(single_cls=True))
    assert every.names == {0: "object"}
    assert every.box.objects[:, 0].tolist() == [12]
    assert every.box.map50 == pytest.approx(1)
    some: Any = in_training(open_dataset(coco), options(classes=(1,)))
    assert some.ap_class_index.tolist() == [1]
    assert some.detections == 4
    assert some.box.map50 == pytest.approx(1)


def test_an_image_that_cannot_be_read_is_named_and_left_out(coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = coco.parent / "images"
    (folder / "2.png").write_bytes(b"nonsense")
    cv2.imwrite(str(folder / "3.png"), np.zeros((99, 64, 3), np.uint8))
    metrics = in_training(open_dataset(coco), options())
    assert len(metrics.problems) == 2
    assert "3.png: it is 99x64, its ground truth is for 64x64" in caplog.text
    assert metrics.results_dict["metrics/mAP50(B)"] == pytest.approx(1)
    for image in folder.iterdir():
        image.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="no image of the data set can be read"):
        in_training(open_dataset(coco), options())


def test_ground_annotation_stated_for_the_unturned_image_is_measured_so(tmp_path: Path, coco: Path) -> None:
    from PIL import Image

    content = json.loads(coco.read_text())
    content["images"] = content["images"][:2]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] <= 2]
    for item in content["images"]:
        item["file_name"] = f"{item['id']}.jpg"
        image = Image.open(tmp_path / "images" / f"{item['id']}.png")
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "images" / item["file_name"], exif=exif, quality=98, subsampling=0)
    coco.write_text(json.dumps(content))
    metrics = in_training(open_dataset(coco), options())
    assert not metrics.problems
    assert metrics.results_dict["metrics/mAP50(M)"] == pytest.approx(1)


def test_nothing_to_measure_is_reported_before_the_work(coco: Path) -> None:
    content = json.loads(coco.read_text())
    content["annotations"] = []
    coco.write_text(json.dumps(content))
    with pytest.raises(DataError, match="holds no objects to measure"):
        in_training(open_dataset(coco), options())


def test_boxes_only_labels_are_left_out_of_the_mask_figures(tmp_path: Path) -> None:
    for number, (height, width) in enumerate(SIZES[:3]):
        scene = draw_scene(height, width)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), scene.image)
        rows = []
        for item in scene.objects:
            x1, y1, x2, y2 = np.array(item.box) / (width, height, width, height)
            if item.category == 2:
                rows.append(f"2 {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}")
            else:
                outline, _ = cv2.findContours(item.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                ring = ((outline[0].reshape(-1, 2) + 0.5) / (width, height)).ravel().tolist()
                rows.append(f"{item.category} {' '.join(map(str, ring))}")
        (tmp_path / "labels" / f"{number}.txt").write_text("\n".join(rows))
    (tmp_path / "set.yaml").write_text("val: images\nnames: [red, green, blue]\n")
    metrics: Any = in_training(open_dataset(tmp_path / "set.yaml"), options())
    assert metrics.box.ap_class_index.tolist() == [0, 1, 2]
    assert metrics.seg.ap_class_index.tolist() == [0, 1]
    assert [metrics.box.map50, metrics.seg.map50] == pytest.approx([1, 1])
    assert "3 objects without a mask left out of the mask figures" in metrics.protocol
    assert metrics.matches.counts("mask") == {"TP": 6, "FP": 0, "FN": 0, "ignored": 3}
    assert "-" in metrics.to_table().splitlines()[4]


def test_progress_and_lines(coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    validate(ColorSession(), options(coco), model="seeing", registry=get_registry())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_options_reach_the_task() -> None:
    decoding = options(conf=0.1, iou=0.5, max_det=7).decode()
    assert dataclasses.asdict(decoding) | {"conf": 0.1, "iou": 0.5, "max_det": 7, "multi_label": True} == (
        dataclasses.asdict(decoding)
    )
    assert decoding.retina_masks
