"""How close what two models found in the same images is: the figures an export is judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segx.artifact import Parity
from segx.ops.boxes import iou

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segx_task_segment.results import SegmentResults

SAME_OBJECT = 0.5
"""Smallest IoU of boxes of one class that may show the same object."""


def compare(reference: Sequence[SegmentResults], other: Sequence[SegmentResults]) -> Parity:
    """Match objects by class and overlap, best overlap first, and return the largest differences.

    Box sides are compared in pixels of the network input. ``matched`` counts the objects of both sides, so that one
    that either side alone has found lowers it, as it does ``quality``, the panoptic quality of the two; images in which
    neither found anything count as equal.
    """
    boxes, scores, overlaps = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    objects, pairs = 0, 0
    for ours, theirs in zip(reference, other, strict=True):
        first, second = match(ours, theirs)
        objects += len(ours) + len(theirs)
        pairs += len(first)
        sides = np.abs(ours.boxes.xyxy[first] - theirs.boxes.xyxy[second]) * (ours.gain * 2)
        boxes.append(sides.max(axis=1, initial=0))
        scores.append(np.abs(ours.boxes.conf[first] - theirs.boxes.conf[second]))
        formed = len(ours.masks) and len(theirs.masks)
        overlaps.append(_mask_ious(ours, theirs, first, second) if formed else np.ones(len(first)))
    box, score, overlap = np.concatenate(boxes), np.concatenate(scores), np.concatenate(overlaps)
    return Parity(
        images=len(reference),
        raw={},
        box=float(box.max(initial=0)),
        score=float(score.max(initial=0)),
        mask_iou=float(overlap.min(initial=1)),
        objects=pairs,
        matched=2 * pairs / objects if objects else 1.0,
        typical_box=float(np.median(box)) if len(box) else 0.0,
        typical_mask_iou=float(np.percentile(overlap, 5)) if len(overlap) else 1.0,
        quality=2 * float(overlap.sum()) / objects if objects else 1.0,
    )


def match(ours: SegmentResults, theirs: SegmentResults) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the objects on either side that belong together, each used once."""
    overlap = iou(ours.boxes.xyxy.astype(np.float64), theirs.boxes.xyxy.astype(np.float64))
    overlap[ours.boxes.cls[:, None] != theirs.boxes.cls[None, :]] = 0
    rows, columns = np.nonzero(overlap > SAME_OBJECT)
    first: list[int] = []
    second: list[int] = []
    for pair in np.argsort(-overlap[rows, columns], kind="stable").tolist():
        row, column = int(rows[pair]), int(columns[pair])
        if row not in first and column not in second:
            first.append(row)
            second.append(column)
    return np.array(first, np.int64), np.array(second, np.int64)


def _mask_ious(
    ours: SegmentResults, theirs: SegmentResults, first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the IoU of the masks of matched objects; two empty masks are equal."""
    found = np.ones(len(first))
    for number, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        mine, yours = ours.masks[i], theirs.masks[j]
        if mine.area[0] or yours.area[0]:
            found[number] = mine.iou(yours)[0, 0]
    return found
