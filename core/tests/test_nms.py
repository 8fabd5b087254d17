"""Suppression keeps what the golden numbers keep, and what the definition says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segx.ops.nms import nms
from segx.options.verbs import DecodeOptions
from segx_task_segment.decode import detect

GOLDEN = np.load(Path(__file__).parent / "data" / "nms.npz")
SETTINGS = {
    "predict": DecodeOptions(conf=0.25, iou=0.7, max_det=300),
    "val": DecodeOptions(conf=0.001, iou=0.7, max_det=300, multi_label=True),
    "agnostic": DecodeOptions(conf=0.25, iou=0.45, max_det=50, agnostic_nms=True),
    "classes": DecodeOptions(conf=0.25, iou=0.7, max_det=300, classes=(0, 5, 17)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_golden_rows(name: str) -> None:
    """Same rows in the same order, to the last bit: box, score, class and 32 coefficients."""
    found = detect(GOLDEN["pred"][0], 80, SETTINGS[name])
    rows = np.concatenate([found.boxes, found.scores[:, None], found.classes[:, None], found.coefficients], axis=1)
    np.testing.assert_array_equal(rows, GOLDEN[name])


def by_definition(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        x1, y1, x2, y2 = boxes[i].astype(np.float64)
        for k in kept:
            a1, b1, a2, b2 = boxes[k].astype(np.float64)
            shared = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
            union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - shared
            if classes[i] == classes[k] and shared > iou * union:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_definition(seed: int) -> None:
    """Across block borders, with ties, with one class and several."""
    rng = np.random.default_rng(seed)
    count = [1, 40, 257, 300, 700, 512][seed]
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (count, 2))], axis=1).astype(np.float32)
    scores = np.round(rng.random(count), 2).astype(np.float32)
    classes = rng.integers(0, 3, count)
    assert nms(boxes, scores, classes, iou=0.4, max_det=count).tolist() == by_definition(boxes, scores, classes, 0.4)
    alone = np.zeros(count, np.int64)
    assert nms(boxes, scores, None, iou=0.4, max_det=count).tolist() == by_definition(boxes, scores, alone, 0.4)


def test_no_candidates() -> None:
    kept = nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), iou=0.5, max_det=10)
    assert kept.size == 0


def test_stops_at_the_most_wanted() -> None:
    boxes = np.arange(1000, dtype=np.float32)[:, None] * 10 + np.array([0, 0, 5, 5], np.float32)
    scores = np.linspace(1, 0, 1000, dtype=np.float32)
    assert nms(boxes, scores, None, iou=0.5, max_det=7).tolist() == list(range(7))


def test_boxes_that_touch_a_threshold_exactly_stay() -> None:
    """More than the threshold is suppressed; exactly at it is not."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    assert nms(boxes, scores, None, iou=0.5, max_det=5).tolist() == [0, 1]
    assert nms(boxes, scores, None, iou=0.49, max_det=5).tolist() == [0]


def test_far_classes_lose_no_precision() -> None:
    """Boxes of class 79 are compared as exactly as those of class 0."""
    boxes = np.array([[600, 600, 600.5, 600.5], [600.02, 600, 600.52, 600.5]], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    for number in (0, 79, 10_000):
        assert nms(boxes, scores, np.full(2, number), iou=0.93, max_det=5).tolist() == [0, 1]
        assert nms(boxes, scores, np.full(2, number), iou=0.91, max_det=5).tolist() == [0]
