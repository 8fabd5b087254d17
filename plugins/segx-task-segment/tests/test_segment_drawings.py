"""Images of a training run show what is trained on."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segx.errors import MissingPluginError
from segx.structures.annotations import Annotation, Sample
from segx.structures.batch import TrainBatch
from segx_task_segment.palette import color
from segx_task_segment.training import drawings
from segx_task_segment.training.drawings import SegmentDrawings, _panels, _smooth

NAMES = {0: "disc", 1: "bar"}


def batch_of(count: int = 2, *, overlap: bool = True, side: int = 64, numbers: int = 2) -> TrainBatch:
    """A batch whose first image has a bar in the upper left quarter and a disc in the lower right one."""
    images = np.full((count, 3, side, side), 100, np.uint8)
    small = side // 4
    half = small // 2
    if overlap:
        masks = np.zeros((count, small, small), np.uint8)
        masks[0, :half, :half], masks[0, half:, half:] = 1, 2
    else:
        masks = np.zeros((numbers, small, small), np.uint8)
        masks[0, :half, :half] = masks[1, half:, half:] = 1
    return TrainBatch(
        images=images,
        batch_idx=np.zeros(numbers, np.int64),
        classes=np.array([1, 0], np.int64)[:numbers],
        boxes=np.array([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]], np.float32)[:numbers],
        masks=masks[:0] if not numbers and not overlap else masks,
        overlap=overlap,
        has_mask=np.ones(numbers, bool),
        paths=tuple(f"{number}.png" for number in range(count)),
    )


@pytest.mark.parametrize("overlap", [True, False])
def test_a_batch_shows_each_object_where_it_is_in_the_colour_of_its_class(tmp_path: Path, *, overlap: bool) -> None:
    path = SegmentDrawings(names=NAMES).batch(batch_of(1, overlap=overlap), tmp_path / "train_batch0.jpg")
    image = cv2.imread(str(path)).astype(np.float64)
    assert image.shape[0] == image.shape[1] >= 300, "small images are enlarged so that labels find room"
    side = image.shape[0]
    quarter, three = side // 4 + side // 8, side * 3 // 4 + side // 8
    for where, category in (((quarter, quarter), 1), ((three, three), 0)):
        expected = 100 * (1 - 0.36) + 0.36 * np.array(color(category))
        assert np.abs(image[where] - expected).max() < 12
    assert np.abs(image[three, quarter // 2] - 100).max() < 12


def test_empty_images_and_many(tmp_path: Path) -> None:
    image = SegmentDrawings(names=NAMES).batch(batch_of(20, numbers=0), tmp_path / "a.jpg")
    assert cv2.imread(str(image)).shape[:2] == (4 * 448, 4 * 448)


def test_the_channels_are_right(tmp_path: Path) -> None:
    batch = batch_of(1, numbers=0)
    batch.images[0, 0] = 250  # red
    image = cv2.imread(str(SegmentDrawings(names=NAMES).batch(batch, tmp_path / "a.png")))
    assert image[100, 100].argmax() == 2


def sample(*categories: int) -> Sample:
    annotations = tuple(Annotation(category=category, box=(10, 20, 40, 20)) for category in categories)
    crowd = Annotation(category=0, box=(0, 0, 100, 50), crowd=True)
    return Sample(path=Path("a.png"), id=0, shape=(50, 100), annotations=(*annotations, crowd))


def test_labels_are_counted_as_they_are_trained_on() -> None:
    samples = [sample(0, 1), sample(1), sample()]
    rows, counts = SegmentDrawings(names=NAMES)._rows(samples)
    assert counts == [2, 1, 0]
    assert rows[:, 0].tolist() == [0, 1, 1]
    np.testing.assert_allclose(rows[0, 1:], [0.3, 0.6, 0.4, 0.4])
    assert SegmentDrawings(names=NAMES, classes=(1,))._rows(samples)[1] == [1, 1, 0]
    assert SegmentDrawings(names={0: "object"}, single_class=True)._rows(samples)[0][:, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("count", [0, 1, 40])
def test_labels_are_drawn(tmp_path: Path, count: int) -> None:
    drawings = SegmentDrawings(names={**NAMES, 2: "\u9bea", 3: "coin_$1_$2"})
    path = drawings.labels([sample(0, 1)] * count, tmp_path / "labels.png")
    assert min(cv2.imread(str(path)).shape[:2]) > 500


def row(epoch: int, **more: float) -> dict[str, float]:
    return {
        "epoch": epoch,
        "time": 1.0 * epoch,
        "train/box_loss": 1 / epoch,
        "metrics/mAP50(B)": 0.5,
        "metrics/mAP50(M)": 0.25,
        "coco/AP_small(B)": 0.5,
        "lr/pg0": 0.1,
        **more,
    }


def test_curves_set_box_and_mask_side_by_side() -> None:
    panels = _panels([row(1, **{"val/box_loss": 2.0}), row(2, **{"metrics/mAP75(B)": 0.5})])
    assert {title: list(series) for title, series in panels.items()} == {
        "box loss": ["train", "val"],
        "mAP50": ["box", "mask"],
        "mAP75": ["box"],
    }
    epochs, values = panels["box loss"]["train"]
    assert (epochs.tolist(), values.tolist()) == ([1, 2], [1, 0.5])
    assert panels["mAP75"]["box"][0].tolist() == [2]


@pytest.mark.parametrize("epochs", [1, 30])
def test_curves_are_drawn_whatever_is_no_number(tmp_path: Path, epochs: int) -> None:
    rows = [row(number + 1, **({"metrics/mAP50(B)": np.nan} if number % 3 else {})) for number in range(epochs)]
    path = SegmentDrawings(names=NAMES).curves(rows, tmp_path / "results.png")
    assert min(cv2.imread(str(path)).shape[:2]) > 300


def test_smoothing_keeps_the_level() -> None:
    np.testing.assert_allclose(_smooth(np.full(40, 3.0)), 3.0)
    noisy = np.random.default_rng(0).normal(size=200)
    assert _smooth(noisy).std() < 0.5 * noisy.std()


def test_they_can_be_drawn_in_a_thread(tmp_path: Path) -> None:
    drawn: list[Path] = []
    thread = threading.Thread(
        target=lambda: drawn.append(SegmentDrawings(names=NAMES).curves([row(1)], tmp_path / "results.png"))
    )
    thread.start()
    thread.join()
    assert drawn[0].exists()


def test_without_matplotlib_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked: dict[str, Any] = dict.fromkeys([name for name in sys.modules if name.startswith("matplotlib")])
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg", *blocked):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPluginError, match=r"need matplotlib[\s\S]*segx-task-segment\[charts\]"):
        SegmentDrawings(names=NAMES).curves([row(1)], tmp_path / "results.png")
    assert list(tmp_path.iterdir()) == []
    assert SegmentDrawings(names=NAMES).batch(batch_of(1), tmp_path / "a.jpg").exists(), "needs none"


def ticks(axis: Any) -> list[float]:
    """What is written on an axis within what is seen of it."""
    low, high = sorted(axis.get_view_interval())
    return [float(place) for place in axis.get_ticklocs() if low <= place <= high]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_what_is_counted_is_numbered_in_whole_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    seen: list[Any] = []
    png = drawings._png
    monkeypatch.setattr(drawings, "_png", lambda figure: seen.append(figure) or png(figure))
    drawn = SegmentDrawings(names=NAMES)
    drawn.labels([sample(0, 1)] * count, tmp_path / "labels.png")
    drawn.curves([row(number + 1) for number in range(count)], tmp_path / "results.png")
    labels, curves = seen
    classes, spread, *_ = labels.axes
    for axis in (classes.yaxis, spread.yaxis, spread.xaxis, *(axes.xaxis for axes in curves.axes[:2])):
        assert ticks(axis)
        assert all(place.is_integer() for place in ticks(axis))
    if count < 20:
        assert all(place.is_integer() for bar in labels.axes[4:] for place in ticks(bar.yaxis))
    assert curves.axes[0].lines[0].get_marker() == ("o" if count == 1 else ".")
    for axes in curves.axes:
        highest = max(float(np.max(line.get_ydata())) for line in axes.lines)
        if axes.get_ylim()[0] == 0:
            assert highest < axes.get_ylim()[1] * 0.96, "the mark at the top is seen whole"
