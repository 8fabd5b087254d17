"""Non-maximum suppression: of boxes that show the same object, keep the one with the best score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segx.ops.boxes import area, intersection

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 128
"""Candidates compared with one another at a time."""


def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int64] | None = None,
    *,
    iou: float,
    max_det: int,
) -> NDArray[np.int64]:
    """Return the numbers of the boxes that greedy suppression keeps, best first.

    A box is dropped when it overlaps a better one that was kept, of its own class, by more than ``iou``. Candidates
    are taken in blocks in order of score and the work ends with the last box that is wanted, so thousands of weak
    candidates cost nothing; classes are told apart by number, not by shifting boxes, so no precision is lost.

    Args:
        boxes: float32 (N, 4), x1, y1, x2, y2.
        scores: float32 (N,).
        classes: int (N,), or None to suppress across classes.
        iou: Largest intersection over union of two boxes that are kept.
        max_det: Most boxes to keep.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_boxes = np.ascontiguousarray(boxes[order].T)
    sorted_classes = np.zeros(order.size, np.int64) if classes is None else classes[order]
    kept = np.zeros(0, np.int64)
    for start in range(0, order.size, BLOCK):
        block = np.arange(start, min(start + BLOCK, order.size))
        block = block[~_overlaps(sorted_boxes, sorted_classes, kept, block, iou).any(axis=0)]
        kept = np.concatenate([kept, block[_greedy(_overlaps(sorted_boxes, sorted_classes, block, block, iou))]])
        if kept.size >= max_det:
            break
    return order[kept[:max_det]]


def _greedy(overlaps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of n boxes, best first, stay when (n, n) says which overlap too much."""
    stays = np.ones(len(overlaps), np.bool_)
    for i in np.flatnonzero(np.triu(overlaps, 1).any(axis=1)).tolist():
        if stays[i]:
            stays[i + 1 :] &= ~overlaps[i, i + 1 :]
    return stays


def _overlaps(
    boxes: NDArray[np.float32],
    classes: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    iou: float,
) -> NDArray[np.bool_]:
    """Return bool (len(first), len(second)): same class and more than ``iou`` of overlap; boxes are (4, N)."""
    ours, theirs = boxes[:, first].T, boxes[:, second].T
    shared = intersection(ours, theirs)
    union = area(ours)[:, None] + area(theirs)[None] - shared
    overlaps: NDArray[np.bool_] = (shared > iou * union) & (classes[first, None] == classes[None, second])
    return overlaps
