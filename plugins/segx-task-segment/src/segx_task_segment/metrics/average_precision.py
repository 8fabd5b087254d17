"""Precision, recall and their averages over a data set, as COCO defines them.

Source: ``accumulate`` and ``summarize`` of the COCO API; the figures equal pycocotools'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segx_task_segment.metrics.matching import AREAS, THRESHOLDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECALLS = np.linspace(0.0, 1.0, 101)
"""COCO's recall points."""

LIMITS = (1, 10, 100)
"""COCO's limits of detections of a class in an image, for recall."""

_BITS = np.arange(len(THRESHOLDS), dtype=np.uint16)[:, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What became of all detections of a data set, of one kind (boxes or masks).

    Attributes:
        category: int32 (detections), class number.
        score: float64 (detections).
        rank: int32 (detections), place by score within its class and image, from 0.
        hit: uint16 (areas, detections), bit per IoU threshold.
        ignored: uint16 (areas, detections), bit per IoU threshold.
        objects: int64 (classes, areas), objects that count.
    """

    category: NDArray[np.int32]
    score: NDArray[np.float64]
    rank: NDArray[np.int32]
    hit: NDArray[np.uint16]
    ignored: NDArray[np.uint16]
    objects: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Averages:
    """Precision and recall; NaN for a class that has no objects in the range.

    Attributes:
        precision: (classes, areas, thresholds, recall points), at most 100 detections.
        recall: (classes, areas, thresholds), at most 100 detections.
        recall_at: (classes, limits), all areas, mean over thresholds.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    recall_at: NDArray[np.float64]


def bits(answers: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return bool (thresholds, detections) of answers (detections)."""
    return np.asarray((answers[None] >> _BITS) & 1 == 1)


def average(evidence: Evidence) -> Averages:
    """Return precision and recall of every class, range of areas and threshold."""
    classes, areas, thresholds = len(evidence.objects), len(AREAS), len(THRESHOLDS)
    precision = np.full((classes, areas, thresholds, len(RECALLS)), np.nan)
    recall = np.full((classes, areas, thresholds), np.nan)
    recall_at = np.full((classes, len(LIMITS)), np.nan)
    for category in np.flatnonzero(evidence.objects[:, 0]).tolist():
        order = by_score(evidence, category)
        for area in np.flatnonzero(evidence.objects[category]).tolist():
            count = int(evidence.objects[category, area])
            right, wrong = _outcomes(evidence, order, area)
            precision[category, area], recall[category, area] = _curve(right, wrong, count)
            if area == 0:
                rank = evidence.rank[order]
                found = [right[:, rank < limit].sum(axis=1) for limit in LIMITS]
                recall_at[category] = np.mean(found, axis=1) / count
    return Averages(precision=precision, recall=recall, recall_at=recall_at)


def by_score(evidence: Evidence, category: int) -> NDArray[np.int64]:
    """Return the detections of a class that COCO looks at, best score first."""
    chosen = np.flatnonzero((evidence.category == category) & (evidence.rank < LIMITS[-1]))
    return chosen[np.argsort(-evidence.score[chosen], kind="stable")]


def _outcomes(evidence: Evidence, order: NDArray[np.int64], area: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return bool (thresholds, detections) twice: right, wrong; both False for what is ignored."""
    hit, ignored = bits(evidence.hit[area, order]), bits(evidence.ignored[area, order])
    return hit & ~ignored, ~hit & ~ignored


def _curve(
    right: NDArray[np.bool_], wrong: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision (thresholds, recall points) and the recall reached (thresholds)."""
    sampled, reached = np.zeros((len(right), len(RECALLS))), np.zeros(len(right))
    if not right.shape[1]:
        return sampled, reached
    hits, misses = np.cumsum(right, axis=1, dtype=np.float64), np.cumsum(wrong, axis=1, dtype=np.float64)
    recall = hits / count
    precision = hits / (hits + misses + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    for threshold in range(len(right)):
        place = np.searchsorted(recall[threshold], RECALLS, side="left")
        there = place < recall.shape[1]
        sampled[threshold, there] = envelope[threshold, place[there]]
    return sampled, recall[:, -1]
