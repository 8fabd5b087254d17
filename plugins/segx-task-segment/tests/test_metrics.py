"""What is made of the matches: precision and recall, confusion, the table, what is drawn."""

from __future__ import annotations

import csv
import dataclasses
import errno
import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx.errors import DataError, UsageError
from segx.ops.boxes import iou
from segx.options.verbs import ValOptions
from segx.plugin.jobs import EvalSpec
from segx.structures.annotations import Annotation, Sample
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks
from segx_task_segment import charts
from segx_task_segment.charts import draw_charts
from segx_task_segment.metrics.coco import THRESHOLDS, match
from segx_task_segment.metrics.confusion import ConfusionMatrix
from segx_task_segment.panels import Panels, fitted
from segx_task_segment.predictions import PredictionsFile
from segx_task_segment.report import write_report
from segx_task_segment.results import SegmentResults as Results
from segx_task_segment.validation import SegmentEvaluator, SegmentValidation

if TYPE_CHECKING:
    from segx.structures.types import Image

NAMES = {0: "cat", 1: "dog"}
SHAPE = (60, 80)


def square(x: float, y: float, side: float, category: int = 0, *, number: int = 1, crowd: bool = False) -> Annotation:
    corners = np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])
    return Annotation(category=category, box=(x, y, side, side), polygons=(corners,), id=number, crowd=crowd)


def sample(*annotations: Annotation, number: int = 1, name: str = "") -> Sample:
    return Sample(path=Path(name or f"{number}.png"), id=number, shape=SHAPE, annotations=annotations)


def blank(_: Sample) -> Image:
    return np.full((*SHAPE, 3), 128, np.uint8)


def found(*squares: tuple[int, int, int, int, float], masks: bool = True) -> Results:
    """Squares x, y, side, class, score."""
    dense = np.zeros((len(squares), *SHAPE), np.uint8)
    for i, (x, y, side, _, _) in enumerate(squares):
        dense[i, y : y + side, x : x + side] = 1
    data = np.array([(x, y, x + s, y + s, score, c) for x, y, s, c, score in squares], np.float32).reshape(-1, 6)
    return Results(
        orig_img=np.full((*SHAPE, 3), 128, np.uint8),
        path="1.png",
        names=NAMES,
        boxes=Boxes(data, SHAPE),
        masks=Masks.from_dense(dense) if masks and squares else Masks.empty(SHAPE),
    )


def evaluate(*pairs: tuple[Sample, Results], **options: Any) -> Any:
    evaluator = SegmentEvaluator(NAMES, **options)
    for one, result in pairs:
        evaluator.update(one, result)
    return evaluator.finish(speed={"inference": 1.0})


def test_perfect_detections_score_one_everywhere() -> None:
    metrics = evaluate(
        (sample(square(5, 5, 20), square(40, 10, 12, 1)), found((5, 5, 20, 0, 0.9), (40, 10, 12, 1, 0.8)))
    )
    for kind in (metrics.box, metrics.seg):
        assert [kind.map, kind.map50, kind.map75, kind.mp, kind.mr] == pytest.approx([1] * 5)
        for values in (kind.maps, kind.p, kind.r, kind.f1):
            np.testing.assert_allclose(values, [1, 1])
    assert metrics.fitness == pytest.approx(1)
    assert metrics.confusion_matrix.matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_no_detections_score_zero_and_classes_without_objects_count_nowhere() -> None:
    metrics = evaluate((sample(square(5, 5, 20)), found()))
    assert metrics.seg.map == metrics.seg.mr == 0
    assert metrics.ap_class_index.tolist() == [0]
    assert metrics.seg.maps.tolist() == [0, 0]
    assert [len(row) for row in metrics.summary()] == [11]
    assert math.isnan(metrics.seg.coco["AP_large"])
    assert "null" in metrics.to_json()


def test_nothing_at_all_is_not_a_number_but_no_error() -> None:
    metrics = evaluate()
    assert math.isnan(metrics.fitness)
    assert metrics.to_dict()["results"]["fitness"] is None
    assert " - " in metrics.to_table()


def test_small_overlaps_are_told_of_those_that_are_shown() -> None:
    one = sample(square(5, 5, 20), square(40, 10, 20))
    both = found((5, 5, 20, 0, 0.9), (15, 5, 20, 0, 0.5), (50, 10, 20, 0, 0.1), (40, 12, 20, 0, 0.05))
    evaluators = [SegmentEvaluator(NAMES, working_score=score) for score in (0.25, 0.0)]
    few, every = (evaluator.update(one, both).seg for evaluator in evaluators)
    assert every.iou.round(3).tolist() == [[1.0, 0], [0.333, 0], [0, 0.333], [0, 0.818]]
    assert few.iou.round(3).tolist() == [[1.0, 0], [0.333, 0], [0, 0], [0, 0.818]]
    for name in ("hit", "ignored", "partner"):
        np.testing.assert_array_equal(getattr(few, name), getattr(every, name))


def test_fitness_is_what_was_chosen() -> None:
    # The mask of this detection is its box, that of the ground truth two thirds of it.
    corners = np.array([[10.0, 10.0], [30.0, 10.0], [30.0, 16.0], [10.0, 30.0]])
    half = Annotation(category=0, box=(10, 10, 20, 20), polygons=(corners,), id=1)
    pair = (sample(half), found((10, 10, 20, 0, 0.9)))
    figures = {kind: evaluate(pair, fitness=kind).fitness for kind in ("mask", "box", "both")}
    assert figures["box"] == pytest.approx(1)
    assert 0 < figures["mask"] < 0.5
    assert figures["both"] == figures["box"] + figures["mask"]
    assert "fitness: box mAP50-95 + mask mAP50-95" in evaluate(pair, fitness="both").protocol


def test_crowds_are_neither_right_nor_wrong() -> None:
    one = sample(square(0, 0, 40, crowd=True, number=7), square(50, 30, 20, number=8))
    metrics = evaluate((one, found((2, 2, 10, 0, 0.9), (20, 20, 12, 0, 0.8), (50, 30, 20, 0, 0.5))))
    assert [metrics.seg.map, metrics.box.map] == pytest.approx([1, 1])
    assert metrics.crowds == 1
    assert "1 crowds neither right nor wrong" in metrics.protocol
    assert metrics.confusion_matrix.matrix.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    rows = [(row.outcome, row.annotation_id) for row in metrics.matches if row.iou_type == "mask"]
    assert rows == [("ignored", 7), ("ignored", 7), ("TP", 8)]


def test_confusion_pairs_what_is_left_over_whatever_its_class() -> None:
    one = sample(square(5, 5, 20, 0), square(40, 10, 12, 1), square(60, 40, 10, 0))
    metrics = evaluate(
        (
            one,
            found(
                (5, 5, 20, 1, 0.9), (5, 6, 20, 0, 0.6), (40, 10, 12, 0, 0.7), (0, 50, 8, 1, 0.3), (60, 40, 10, 0, 0.2)
            ),
        )
    )
    # Right first: the second square is the cat, whatever the first one says with more confidence.
    assert metrics.confusion_matrix.matrix.tolist() == [[1, 1, 0], [0, 0, 2], [1, 0, 0]]
    np.testing.assert_allclose(metrics.confusion_matrix.normalized.sum(axis=0), 1)


@pytest.mark.parametrize("name", ["=1+1.png", "+a.png", "-a.png", "@a.png", "\ta.png"])
def test_a_spreadsheet_runs_nothing_of_the_table(name: str) -> None:
    metrics = evaluate((sample(square(5, 5, 20, number=41), name=name), found((5, 5, 20, 0, 0.9))))
    assert {row[1] for row in list(csv.reader(metrics.matches.to_csv().splitlines()))[1:]} == {f"'{name}"}


def test_the_table_has_a_row_for_each_detection_and_each_object_missed() -> None:
    one = sample(square(5, 5, 20, number=41), square(40, 10, 12, 1, number=42), name="a.png")
    two = sample(square(5, 5, 20, number=51), number=2, name="b.png")
    metrics = evaluate((one, found((5, 5, 20, 0, 0.9), (44, 10, 12, 1, 0.8))), (two, found((5, 5, 20, 0, 0.2))))
    table = [line.split(",") for line in metrics.matches.to_csv().splitlines()]
    assert table[0] == [
        "image_id",
        "image",
        "iou_type",
        "outcome",
        "class",
        "score",
        "iou",
        "detection_id",
        "annotation_id",
    ]
    masks = [row for row in table if row[2] == "mask"]
    assert masks == [
        ["1", "a.png", "mask", "TP", "cat", "0.90000", "1.0000", "1", "41"],
        ["1", "a.png", "mask", "TP", "dog", "0.80000", "0.5000", "2", "42"],
        ["2", "b.png", "mask", "FN", "cat", "", "", "", "51"],
    ]
    assert metrics.matches.counts("box") == {"TP": 2, "FP": 0, "FN": 1, "ignored": 0}


def test_precision_and_recall_are_at_the_score_where_the_mean_f1_is_highest() -> None:
    pairs = []
    for number in range(20):
        squares = [(5, 5, 20, 0, 0.8)] if number < 15 else []
        if number < 12:
            squares.append((50, 30, 10, 0, 0.3))
        pairs.append((sample(square(5, 5, 20), number=number), found(*squares)))
    metrics = evaluate(*pairs)
    assert metrics.seg.p[0] == pytest.approx(1, abs=0.01)
    assert metrics.seg.r[0] == pytest.approx(0.75, abs=0.01)
    x, precision, *_ = metrics.seg.curves_results[2]
    np.testing.assert_allclose(np.interp([0.1, 0.79], x, precision[0]), [15 / 27, 1], atol=0.01)
    assert len(metrics.curves) == len(metrics.curves_results) == 8


def test_precision_is_zero_where_nothing_is_detected_and_never_raises_the_mean() -> None:
    one = sample(square(5, 5, 20), square(40, 10, 12, 1))
    metrics = evaluate((one, found((5, 5, 20, 0, 0.8))))
    for kind in (metrics.box, metrics.seg):
        assert kind.p.tolist() == kind.r.tolist() == kind.f1.tolist() == [1, 0]
        assert kind.mp == kind.mr == 0.5
        x, precision, *_ = kind.curves_results[2]
        assert (precision[0] == (x <= np.float32(0.8))).all()
        assert not precision[1].any()
    assert [(row["Mask-P"], row["Mask-R"]) for row in metrics.summary()] == [(1, 1), (0, 0)]
    assert metrics.confusion_matrix.normalized[:, 1].tolist() == [0, 0, 1]
    nothing = evaluate((one, found()))
    assert nothing.mean_results() == [0] * 8
    assert nothing.results_dict["metrics/precision(M)"] == 0


def test_every_figure_has_its_name_on_the_whole() -> None:
    one = sample(square(5, 5, 20), square(40, 10, 12, 1))
    metrics = evaluate((one, found((5, 5, 20, 0, 0.8), (30, 40, 10, 1, 0.9))))
    assert metrics.ap_class_index.tolist() == [0, 1]
    for name in ("p", "r", "f1"):
        np.testing.assert_array_equal(getattr(metrics, name), getattr(metrics.seg, name))
        assert getattr(metrics, name).tolist() == [1, 0]
    assert len(metrics.curves) == 8
    assert metrics.results_dict["fitness"] == metrics.fitness == metrics.seg.map == pytest.approx(0.5)
    assert metrics.speed == {"inference": 1.0}
    assert metrics.confusion_matrix.matrix.shape == (3, 3)
    assert json.loads(metrics.to_json())["classes"][0]["Mask-P"] == 1
    assert [row["Class"] for row in metrics.summary()] == ["cat", "dog"]
    for kind in (metrics.box, metrics.seg):
        for name in ("map", "map50", "map75", "maps", "p", "r", "f1", "ap_class_index", "curves"):
            assert getattr(kind, name) is not None
    pytest.importorskip("pandas")
    assert metrics.to_df()["Mask-R"].tolist() == [1, 0]


def test_figures_of_masks_keep_the_order_of_all_classes_where_some_have_boxes_only() -> None:
    boxed = Annotation(category=0, box=(5, 5, 20, 20), id=1)
    metrics = evaluate((sample(boxed, square(40, 10, 12, 1, number=2)), found((40, 10, 12, 1, 0.8))))
    assert (metrics.ap_class_index.tolist(), metrics.seg.ap_class_index.tolist()) == ([0, 1], [1])
    for values in (metrics.p, metrics.r, metrics.f1):
        np.testing.assert_array_equal(values, [math.nan, 1])


def test_metrics_are_shown_in_few_words() -> None:
    one = sample(square(5, 5, 20), square(40, 10, 12, 1))
    metrics = evaluate((one, found((5, 5, 20, 0, 0.8)))).replace(save_dir=Path("runs/segment/val"))
    assert repr(metrics) == (
        "SegmentMetrics(2 classes, 1 image; box mAP50-95 0.500, mAP50 0.500; mask mAP50-95 0.500, mAP50 0.500; "
        "runs/segment/val)"
    )
    assert repr(metrics.seg) == "IouTypeMetrics(mask mAP50-95 0.500, mAP50 0.500)"
    assert repr(metrics.confusion_matrix) == "ConfusionMatrix(2 classes, score 0.25, IoU 0.5)"
    assert repr(metrics.matches) == "MatchTable(4 rows)"
    assert "mAP50 -;" in repr(evaluate())


def test_the_report_rounds_as_the_console_does() -> None:
    pairs = [(sample(square(5, 5, 20), number=number), found((5, 5, 20, 0, 0.9))) for number in range(20)]
    metrics = evaluate(*pairs)
    twice = np.full((1, 1000), 0.20247)  # to four digits 0.2025, and that to three 0.203
    metrics = metrics.replace(seg=dataclasses.replace(metrics.seg, precision_curve=twice))
    report = write_report(metrics, charts={}, worst=[], sheets=[])
    assert "0.202" in metrics.to_table()
    assert "<td>0.202</td>" in report
    assert "0.203" not in report


def test_masks_are_needed_at_the_resolution_of_the_image() -> None:
    with pytest.raises(UsageError, match="own resolution"):
        evaluate((sample(square(5, 5, 20)), found((5, 5, 20, 0, 0.9), masks=False)))


def test_overlaps() -> None:
    crowd = np.array([False, True])
    boxes = np.array([[0.0, 0, 10, 10], [20, 20, 25, 25]])
    np.testing.assert_allclose(
        iou(boxes, np.array([[5.0, 0, 15, 10], [0, 0, 40, 5]]), crowd=crowd), [[1 / 3, 0.5], [0, 0]]
    )
    rng = np.random.default_rng(0)
    dense = rng.random((2, 6, 30, 40)) < 0.5
    one, other = (Masks.from_dense(side) for side in dense)
    crowds = rng.random(6) < 0.5
    shared = (dense[0][:, None] & dense[1][None]).sum(axis=(2, 3))
    union = np.where(crowds, dense[0].sum(axis=(1, 2))[:, None], (dense[0][:, None] | dense[1][None]).sum(axis=(2, 3)))
    np.testing.assert_array_equal(one.iou(other, crowd=crowds), shared / union)


def test_a_detection_takes_the_best_object_that_is_free_at_each_threshold() -> None:
    iou = np.array([[0.9, 0.6], [0.8, 0.7], [0.55, 0.0]])
    matches = match(iou, crowd=np.zeros(2, bool), annotation_areas=np.full(2, 50.0), found_areas=np.full(3, 50.0))
    at = {threshold: 1 << bit for bit, threshold in enumerate(np.round(THRESHOLDS, 2).tolist())}
    assert matches.hit[0, 0] == sum(bit for threshold, bit in at.items() if threshold <= 0.9)
    assert matches.hit[0, 1] == sum(bit for threshold, bit in at.items() if threshold <= 0.7)
    assert matches.hit[0, 2] == 0
    assert matches.partner.tolist() == [0, 1, -1]
    assert (matches.hit[1] == matches.hit[0]).all()  # small: 50 pixels
    assert (matches.hit[3] == 0).all()
    assert (matches.ignored[3] == 1023).all()  # not large


def test_charts_and_report_hold_whatever_the_names(tmp_path: Path) -> None:
    names = {0: "<b>cat</b> & 猫", 1: "dog"}
    evaluator = SegmentEvaluator(names)
    panels = Panels(0.25, read=blank)
    pairs = [
        (sample(square(5, 5, 20), square(40, 10, 12, 1), number=1, name="<x>.png"), found((5, 5, 20, 0, 0.9))),
        (sample(square(5, 5, 20), number=2), found((5, 5, 20, 0, 0.9))),
        (sample(number=3), found((5, 5, 20, 1, 0.9), (30, 5, 9, 1, 0.9))),
    ]
    for one, result in pairs:
        panels.add(evaluator.update(one, result.replace(names=names)))
    metrics = evaluator.finish().replace(settings={"model": "<script>", "data": "d"})
    worst = panels.worst()
    assert [(panel.name, panel.right, panel.wrong, panel.missed) for panel in worst] == [
        ("3.png", 0, 2, 0),
        ("<x>.png", 1, 0, 1),
    ]
    drawn = cv2.imdecode(np.frombuffer(worst[0].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == (60, 160, 3)
    drawings = draw_charts(metrics)
    assert len(drawings) == 10
    assert all(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None for data in drawings.values())
    report = write_report(metrics, charts=drawings, worst=worst, sheets=panels.sheets())
    assert "<script>" not in report
    assert "&lt;b&gt;cat&lt;/b&gt; &amp; 猫" in report
    assert report.count("<img") == 10 + len(worst) + 2
    json.loads(metrics.to_json())


def test_a_confusion_matrix_of_many_classes_shows_those_that_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(charts, "_png", lambda figure: drawn.append(figure.axes[0]) or b"")
    confusion = ConfusionMatrix.empty({number: f"class {number}" for number in range(1000)}, score=0.25)
    confusion.matrix[[3, 3, 7, 1000], [3, 900, 3, 7]] = [5, 2, 4, 1]
    charts.matrix_chart(confusion, normalized=False)
    (axes,) = drawn
    named = ["class 3", "class 7", "class 900", "background"]
    assert [label.get_text() for label in axes.get_xticklabels()] == named
    assert confusion.largest(9) == [("class 3", "class 7", 4), ("class 900", "class 3", 2)]
    confusion.matrix[:-1, :-1] += 10 * np.eye(1000, dtype=np.int64)
    charts.matrix_chart(confusion, normalized=True)
    assert not drawn[1].get_xticklabels()
    (text,) = (item.get_text() for item in drawn[1].texts)
    assert text.splitlines()[1:] == ["4  class 3 as class 7", "2  class 900 as class 3"]


def test_the_worst_images_are_kept_and_no_more() -> None:
    evaluator, panels = SegmentEvaluator(NAMES), Panels(0.25, read=blank)
    wrong = np.random.default_rng(0).permutation(40).tolist()
    for number, count in enumerate(wrong):
        squares = [(x, 30, 2, 1, 0.9) for x in range(count)]
        panels.add(evaluator.update(sample(square(5, 5, 20), number=number), found((5, 5, 20, 0, 0.9), *squares)))
    assert [panel.wrong for panel in panels.worst()] == list(range(39, 27, -1))
    assert len(panels.sheets()) == 3


def test_a_large_image_is_drawn_on_a_small_copy() -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    whole = found((8, 10, 20, 0, 0.9), (79, 59, 1, 1, 0.9), (0, 0, 80, 1, 0.9))
    small = fitted(whole, image)
    assert small.orig_shape == small.masks.frame == (30, 40)
    assert small.boxes.xyxy[0].tolist() == [4, 5, 14, 15]
    dense = small.masks.data
    assert dense[0].sum() == 100
    assert dense[0, 5:15, 4:14].all()
    assert fitted(whole, blank(sample())).masks is whole.masks


def test_predictions_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    verdict = SegmentEvaluator(NAMES).update(sample(square(5, 5, 20)), found((5, 5, 20, 0, 0.9), (1, 1, 9, 1, 0.3)))
    whole = PredictionsFile(tmp_path / "a.json", {0: 7, 1: 90})
    whole.add(verdict)
    assert not (tmp_path / "a.json").exists()
    rows = json.loads(whole.close().read_text())
    assert [(row["id"], row["category_id"], row["bbox"]) for row in rows] == [
        (1, 7, [5, 5, 20, 20]),
        (2, 90, [1, 1, 9, 9]),
    ]
    assert np.float32(rows[1]["score"]) == np.float32(0.3)
    assert json.loads(PredictionsFile(tmp_path / "empty.json", {}).close().read_text()) == []
    broken = PredictionsFile(tmp_path / "b.json", {})
    broken.add(verdict)
    broken.discard()
    whole.discard()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "empty.json"]


def test_a_full_disk_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = SegmentEvaluator(NAMES).update(sample(square(5, 5, 20)), found((5, 5, 20, 0, 0.9)))
    predictions = PredictionsFile(tmp_path / "a.json", {})

    def full(_: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predictions._file, "_file", SimpleNamespace(write=full))
    with pytest.raises(DataError, match=r"a\.json: cannot be written \(No space left on device\)"):
        predictions.add(verdict)
    predictions.discard()
    assert not list(tmp_path.iterdir())


def measured(folder: Path, **options: Any) -> tuple[SegmentValidation, Any]:
    """A validation of one image, and what ends it."""
    chosen = ValOptions.parse({"data": "d", **options})
    validation = SegmentValidation(
        EvalSpec(names=NAMES, category_ids={0: 1, 1: 2}, options=chosen, images=1, folder=folder)
    )
    image = folder / "1.png"
    cv2.imwrite(str(image), blank(sample()))
    one = dataclasses.replace(sample(square(5, 5, 20)), path=image)
    validation.update(one, found((5, 5, 20, 0, 0.9), (30, 30, 9, 1, 0.8)))
    image.unlink()
    return validation, lambda: validation.finish(speed={"inference": 1.0}, problems=())


def fill_disk(monkeypatch: pytest.MonkeyPatch, *, fits: tuple[str, ...]) -> None:
    """Let only files of some kinds be written."""
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.suffix in fits:
            return write(path, data)
        write(path, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)


def test_a_full_disk_costs_images_and_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, finish = measured(tmp_path, save_json=True)
    fill_disk(monkeypatch, fits=(".json", ".csv"))
    metrics = finish()
    assert metrics.seg.map == pytest.approx(1)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "BoxPR_curve.png: cannot be written (No space left on device), nor can 12 other files" in record.message
    written = {"metrics.json", "matches.csv", "predictions.json"}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in metrics.files} == written
    assert {Path(path).name for path in json.loads((tmp_path / "metrics.json").read_text())["files"]} == written
    assert metrics.problems == (), "an image that is missing is no problem"


def test_the_figures_are_returned_even_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, finish = measured(tmp_path, plots=False)
    fill_disk(monkeypatch, fits=())
    metrics = finish()
    assert metrics.seg.map == pytest.approx(1)
    assert (metrics.files, list(tmp_path.iterdir())) == ((), [])
    assert len(metrics.problems) == 2
    assert "metrics.json: cannot be written" in metrics.problems[0]
    assert len(caplog.records) == 1


def test_predictions_that_cannot_be_written_do_not_end_a_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: PredictionsFile, _: Any) -> None:
        raise DataError(f"{path.path}: cannot be written (No space left on device)")

    monkeypatch.setattr(PredictionsFile, "add", full)
    validation, finish = measured(tmp_path, plots=False, save_json=True)
    metrics = finish()
    validation.close()
    assert metrics.seg.map == pytest.approx(1)
    assert ["predictions.json" in problem for problem in metrics.problems] == [True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["matches.csv", "metrics.json"]
    assert len(caplog.records) == 1


def test_everything_that_was_written_is_named_the_report_first(tmp_path: Path) -> None:
    _, finish = measured(tmp_path, save_json=True)
    metrics = finish()
    assert metrics.files[0].name == "report.html"
    assert sorted(metrics.files) == sorted(tmp_path.iterdir())
    assert json.loads((tmp_path / "metrics.json").read_text())["files"] == [str(path) for path in metrics.files]


def test_what_is_missing_for_drawing_is_told_and_figures_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    _, finish = measured(tmp_path)
    finish()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "curves are not drawn, they need matplotlib",
        "the report is not written, it needs jinja2",
    ]
    assert {"metrics.json", "matches.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_names_of_classes_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    legends: list[Any] = []
    png = charts._png

    def note(figure: Any) -> bytes:
        legends.append(figure.axes[0].get_legend())
        return png(figure)

    monkeypatch.setattr(charts, "_png", note)
    names = {0: "coin_$1_$2", 1: "_hidden"}
    evaluator = SegmentEvaluator(names)
    evaluator.update(sample(square(5, 5, 20), square(40, 10, 12, 1)), found((5, 5, 20, 0, 0.9)).replace(names=names))
    draw_charts(evaluator.finish())
    texts = legends[1].get_texts()
    assert [text.get_text().strip() for text in texts[:2]] == ["coin_$1_$2", "_hidden"]
    assert not any(text.get_parse_math() for text in texts)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Axes of each chart as it is drawn: its lines' colours and its words."""
    seen: list[Any] = []
    png = charts._png

    def note(figure: Any) -> bytes:
        axes = figure.axes[0]
        seen.append(([line.get_color() for line in axes.lines], [text.get_text() for text in axes.texts]))
        return png(figure)

    monkeypatch.setattr(charts, "_png", note)
    return seen


def test_the_mean_of_all_classes_has_a_colour_of_its_own(figures: list[Any]) -> None:
    draw_charts(evaluate((sample(square(5, 5, 20), square(40, 10, 12, 1)), found((5, 5, 20, 0, 0.9)))))
    for colours, words in figures[:8]:
        assert colours[:2] == [charts.tint(0), charts.tint(1)]
        assert len(set(colours)) == 3
        assert words == []


@pytest.mark.parametrize(
    ("annotation", "words"), [(sample(square(5, 5, 20)), "nothing found"), (sample(), "nothing to find")]
)
def test_empty_curves_say_why(figures: list[Any], annotation: Sample, words: str) -> None:
    draw_charts(evaluate((annotation, found())))
    assert [[text.partition(":")[0] for text in texts] for _, texts in figures[:8]] == [[words]] * 8
