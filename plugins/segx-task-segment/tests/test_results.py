"""Results in every form: numbers, words, tables, labels, COCO, supervision, images on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from segx.errors import DataError, MissingPluginError, UsageError
from segx.io.files import write_image
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks
from segx_task_segment.results import SegmentResults as Results

NAMES = {0: "person", 5: "bus", 7: "wine/glass"}


@pytest.fixture
def results() -> Results:
    """A person, a bus with a hole and a second part, a person."""
    masks = np.zeros((3, 60, 80), np.bool_)
    masks[0, 10:30, 5:25] = True
    masks[1, 20:50, 30:70] = True
    masks[1, 30:35, 40:50] = False
    masks[1, 52:54, 31:34] = True
    masks[2, 40:44, 2:6] = True
    boxes = np.array([[5, 10, 25, 30, 0.9, 0], [30, 20, 70, 54, 0.8, 5], [2, 40, 6, 44, 0.3, 0]], np.float32)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    return Results(
        orig_img=image, path="photos/a.jpg", names=NAMES, boxes=Boxes(boxes, (60, 80)), masks=Masks.from_dense(masks)
    )


@pytest.fixture
def nothing() -> Results:
    return Results(orig_img=np.zeros((60, 80, 3), np.uint8), path="photos/b.png", names=NAMES)


def test_boxes_in_all_forms(results: Results) -> None:
    boxes = results.boxes
    assert boxes.xyxy[1].tolist() == [30, 20, 70, 54]
    assert boxes.xywh[1].tolist() == [50, 37, 40, 34]
    np.testing.assert_allclose(boxes.xyxyn[1], [30 / 80, 20 / 60, 70 / 80, 54 / 60])
    np.testing.assert_allclose(boxes.xywhn[1], [50 / 80, 37 / 60, 40 / 80, 34 / 60])
    np.testing.assert_allclose(boxes.conf, [0.9, 0.8, 0.3])
    assert boxes.cls.tolist() == [0, 5, 0]
    assert boxes.id is None
    assert not boxes.is_track
    assert boxes.shape == (3, 6)
    assert boxes.cpu().numpy().to("cuda:0").cuda() is boxes
    for array in (boxes.data, boxes.xyxy, boxes.xywh, boxes.xyxyn, boxes.xywhn, boxes.conf, boxes.cls):
        assert array.dtype == np.float32
        assert isinstance(array, np.ndarray)
    with pytest.raises(ValueError, match="shape"):
        Boxes(np.zeros((3, 4), np.float32), (60, 80))


def test_indexing_keeps_boxes_and_masks_together(results: Results) -> None:
    buses = results[results.boxes.cls == 5]
    assert len(buses) == len(buses.masks) == 1
    assert buses.masks.area[0] == results.masks.area[1]
    assert [int(one.boxes.cls[0]) for one in results] == [0, 5, 0]
    assert len(results[0:2]) == 2
    assert len(results[[]]) == 0
    assert results[-1].boxes.conf[0] == pytest.approx(0.3)
    assert results.cpu().numpy().to("cpu") is results
    with pytest.raises(IndexError):
        results[3]


def test_nothing_is_empty_not_none(nothing: Results) -> None:
    assert len(nothing) == len(nothing.boxes) == len(nothing.masks) == 0
    assert nothing.boxes.xywhn.shape == (0, 4)
    assert nothing.masks.data.shape == (0, 60, 80)
    assert nothing.summary() == nothing.to_coco(1) == []
    assert json.loads(nothing.to_json()) == []
    assert nothing.verbose() == "(no detections), "
    assert list(nothing) == []


def test_masks_must_match_boxes(results: Results) -> None:
    with pytest.raises(ValueError, match="3 boxes cannot have 2 masks"):
        results.replace(masks=results.masks[:2])
    keep = results.boxes.conf > 0.5
    results.boxes = results.boxes[keep]
    for use in (results.plot, results.summary, results.to_supervision, lambda: results[:1], lambda: results.to_coco(1)):
        with pytest.raises(ValueError, match="2 boxes cannot have 3 masks"):
            use()
    results.masks = results.masks[keep]
    assert len(results.summary()) == 2
    assert len(results.replace(masks=None)) == 2, "boxes alone are fine"


def test_in_words(results: Results) -> None:
    assert results.verbose() == "2 persons, 1 bus, "
    assert repr(results) == "Results('photos/a.jpg', 80 x 60: 2 persons, 1 bus)"
    two_buses = results.replace(boxes=Boxes(np.repeat(results.boxes.data[1:2], 3, axis=0), (60, 80)))
    assert two_buses.verbose() == "3 buses, "


def test_summary_and_json(results: Results) -> None:
    rows = results.summary()
    assert [(row["name"], row["class"], row["confidence"]) for row in rows][:2] == [("person", 0, 0.9), ("bus", 5, 0.8)]
    assert rows[0]["box"] == {"x1": 5.0, "y1": 10.0, "x2": 25.0, "y2": 30.0}
    assert max(rows[0]["segments"]["x"]) == 24.0
    fractions = results.summary(normalize=True, decimals=3)
    assert fractions[0]["box"] == {"x1": 0.062, "y1": 0.167, "x2": 0.312, "y2": 0.5}
    assert json.loads(results.to_json()) == rows
    assert "segments" not in results.replace(masks=Masks.empty((60, 80))).summary()[0]


def test_data_frame(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPluginError, match="pip install pandas"):
        results.to_df()


def test_data_frame_with_pandas(results: Results, nothing: Results) -> None:
    assert results.to_df()["name"].tolist() == ["person", "bus", "person"]
    assert nothing.to_df().columns.tolist() == ["name", "class", "confidence", "box"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools under NumPy 2
def test_coco_rows(results: Results) -> None:
    rows = json.loads(json.dumps(results.to_coco(42, {0: 1, 5: 6})))
    assert [row["category_id"] for row in rows] == [1, 6, 1]
    assert rows[1]["bbox"] == [30.0, 20.0, 40.0, 34.0]
    assert rows[0]["image_id"] == 42
    np.testing.assert_array_equal(coco.decode(rows[1]["segmentation"]), results.masks.data[1])


def test_supervision(results: Results, nothing: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    detections = results.to_supervision()
    np.testing.assert_array_equal(detections.mask, results.masks.data.astype(bool))
    np.testing.assert_array_equal(detections.xyxy, results.boxes.xyxy)
    assert detections.class_id.tolist() == [0, 5, 0]
    assert detections.data["class_name"].tolist() == ["person", "bus", "person"]
    assert len(nothing.to_supervision()) == 0
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingPluginError, match="pip install supervision"):
        results.to_supervision()


def test_labels(results: Results, nothing: Results, tmp_path: Path) -> None:
    """One row for each object, the ring of its largest part; filled again it is that part, hole closed."""
    path = results.save_txt(tmp_path / "labels" / "a.txt", save_conf=True)
    rows = [row.split() for row in path.read_text().splitlines()]
    assert [row[0] for row in rows] == ["0", "5", "0"]
    assert float(rows[1][-1]) == pytest.approx(0.8)
    ring = np.array(rows[1][1:-1], float).reshape(-1, 2) * [80, 60]
    expected = np.zeros((60, 80), np.uint8)
    expected[20:50, 30:70] = 1
    np.testing.assert_array_equal(Masks.from_polygons([[ring]], (60, 80)).data[0], expected)
    nothing.save_txt(path)
    assert path.read_text() == "", "an old file is replaced, not added to"
    boxes = results.replace(masks=Masks.empty((60, 80))).save_txt(tmp_path / "boxes.txt").read_text().splitlines()
    np.testing.assert_allclose(np.array(boxes[1].split(), float), [5, *results.boxes.xywhn[1]], rtol=1e-5)


def test_an_object_without_pixels_has_no_label(results: Results, tmp_path: Path) -> None:
    dense = results.masks.data
    dense[0] = 0
    path = results.replace(masks=Masks.from_dense(dense)).save_txt(tmp_path / "a.txt")
    assert [row.split()[0] for row in path.read_text().splitlines()] == ["5", "0"]


def test_cut_outs_follow_the_mask(results: Results, tmp_path: Path) -> None:
    files = results.save_crop(tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in files] == ["person/a.png", "bus/a.png", "person/a-2.png"]
    cut = cv2.imread(str(files[1]), cv2.IMREAD_UNCHANGED)
    assert cut.shape == (34, 40, 4)
    np.testing.assert_array_equal(cut[..., 3] == 255, results.masks.data[1, 20:54, 30:70] == 1)
    np.testing.assert_array_equal(cut[..., :3], results.orig_img[20:54, 30:70])


def test_box_crops(results: Results, tmp_path: Path) -> None:
    files = results.save_crop(tmp_path, "b.png", mode="box")
    assert [str(file.relative_to(tmp_path)) for file in files] == ["person/b.jpg", "bus/b.jpg", "person/b-2.jpg"]
    assert cv2.imread(str(files[1])).shape == (34, 40, 3)


def test_only_an_images_suffix_is_left_away(results: Results, tmp_path: Path) -> None:
    for name, stem in (("scan.001", "scan.001"), ("7", "7"), ("im.JPG", "im"), ("../up.png", "up"), ("a-2", "a-2-1")):
        assert [file.stem for file in results.save_crop(tmp_path, name)][1] == stem
    assert results.save(tmp_path / "scan.001") == tmp_path / "scan.001.png"


def test_files_without_a_name_of_their_own_are_called_like_the_source(results: Results, tmp_path: Path) -> None:
    for path, frame, name in (
        ("x/pill#1.png", None, "pill#1.png"),
        ("clip.avi", 3, "clip_3.jpg"),
        ("image0", None, "image0.jpg"),
        ("b\udcff.png", None, "b_.png"),
    ):
        assert results.replace(path=path, frame=frame, save_dir=tmp_path).save() == tmp_path / name
    assert results.replace(stem="bus-2", save_dir=tmp_path).save() == tmp_path / "bus-2.jpg"
    mine = results.replace(path=str(tmp_path / "mine.jpg"), save_dir=tmp_path)
    assert mine.save() == tmp_path / "results_mine.jpg", "not over the source"


def test_classes_share_no_folder(results: Results, tmp_path: Path) -> None:
    for names in ({0: "a/b", 5: "a_b"}, {0: "a", 5: "A"}, {0: "star", 5: "star"}, {0: "5"}):
        files = results.replace(names=names).save_crop(tmp_path)
        assert files[0].parent == files[2].parent
        assert files[0].parent.name.casefold() != files[1].parent.name.casefold()


def test_class_names_cannot_leave_the_folder(results: Results, tmp_path: Path) -> None:
    names = {0: "../../up", 5: "wine/glass"}
    files = results.replace(names=names).save_crop(tmp_path / "crops")
    assert {file.parent.parent for file in files} == {tmp_path / "crops"}
    assert files[1].parent.name == "wine_glass"


def test_cut_outs_need_masks_of_the_image(results: Results, tmp_path: Path) -> None:
    small = Masks.from_dense(np.ones((3, 32, 32)), (60, 80))
    for masks in (small, Masks.empty((60, 80))):
        with pytest.raises(UsageError, match="masks at the image's resolution"):
            results.replace(masks=masks).save_crop(tmp_path)
    assert "segmentation" not in results.replace(masks=small).to_coco(1)[0]


def test_save_keeps_the_suffix(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert results.replace(save_dir=tmp_path).save() == tmp_path / "a.jpg"
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (60, 80, 3)
    png = results.save(tmp_path / "x" / "b.png", labels=False)
    np.testing.assert_array_equal(cv2.imread(str(png)), results.plot(labels=False))
    assert results.save(tmp_path / "c.heic") == tmp_path / "c.png"
    assert results.save(tmp_path / "d") == tmp_path / "d.png"
    monkeypatch.chdir(tmp_path)
    assert results.save() == Path("results_a.jpg")
    web = results.replace(path="https://example.org/pictures/bus.webp?size=2", save_dir=tmp_path)
    assert web.save() == tmp_path / "bus.webp"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_image(tmp_path / "folder.png", image)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", image)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]
    assert write_image(tmp_path / "alpha.jpg", np.zeros((4, 4, 4), np.uint8)).name == "alpha.png"


def test_plot_is_the_tasks(results: Results, nothing: Results) -> None:
    drawn = results.plot()
    assert drawn.shape == results.orig_img.shape
    assert (drawn != results.orig_img).any()
    np.testing.assert_array_equal(nothing.plot(), nothing.orig_img)


def test_show_without_a_display(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"show\(\) needs a display, and there is none"):
        results.show()
    monkeypatch.setenv("DISPLAY", ":4711")  # of a server that is gone: OpenCV would end the process
    with pytest.raises(UsageError, match="cannot open one on display :4711"):
        results.show()


def test_a_window_is_named_in_utf8(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("segx.io.display.require_display", lambda _: None)
    monkeypatch.setattr(cv2, "imshow", lambda name, _: shown.append(name))
    monkeypatch.setattr(cv2, "waitKey", lambda _: -1)
    monkeypatch.setattr(cv2, "destroyWindow", shown.append)
    results.replace(path="caf\udce9.png").show()
    assert shown == ["caf?.png"] * 2

    def refuse(*_: object) -> None:
        raise cv2.error("not built with windows")

    monkeypatch.setattr(cv2, "imshow", refuse)
    with pytest.raises(UsageError, match="no display"):
        results.show()


def test_names_belong_to_one_result(results: Results) -> None:
    names = {0: "person", 5: "bus"}
    first, second = (results.replace(names=names) for _ in range(2))
    assert isinstance(first.names, dict)
    first.names[0] = "somebody"
    assert second.names == names == {0: "person", 5: "bus"}
