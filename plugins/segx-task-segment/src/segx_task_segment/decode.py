"""Raw outputs of the head ``yolov8-seg/1`` into scored boxes with mask coefficients, one image at a time.

``output0`` (B, 4 + nc + nm, A): for each anchor centre x, centre y, width, height in input pixels, nc class scores in
0..1, nm mask coefficients. ``output1`` (B, nm, h, w): prototypes. Formats that come by way of TensorFlow give the two
in either order and with channels last; the shapes say which is which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import ModelError
from segx.ops.arrays import to_numpy
from segx.ops.nms import nms
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from segx.options.verbs import DecodeOptions

MAX_CANDIDATES = 30_000
"""Candidates that enter suppression, the best ones."""

_USUAL_LEVELS, _MOST_LEVELS = 3, 8
_COARSEST_FIRST = 3
"""Of several levels the finest has at most four times the prototypes' stride: number 0 is twice as fine as they are."""

ANY_SIZE = 1e9
"""What no number of an object reaches: a box of a billion pixels."""


class RawOutputs(Record, kw_only=False):
    """The outputs of a batch in one layout.

    Attributes:
        predictions: float32 (B, 4 + nc + nm, A).
        prototypes: float32 (B, nm, h, w).
        nc: Number of classes.
    """

    predictions: NDArray[np.float32]
    prototypes: NDArray[np.float32]
    nc: int


class Detections(Record, kw_only=False):
    """What was found in one image, best first.

    Attributes:
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels of the network input.
        scores: float32 (N,).
        classes: int (N,).
        coefficients: float32 (N, nm).
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    coefficients: NDArray[np.float32]


def read_outputs(outputs: Sequence[Any], nc: int) -> RawOutputs:
    """Return raw outputs in one layout.

    Args:
        outputs: Predictions and prototypes, in either order, channels first or last.
        nc: Number of classes the model knows; 0 when it does not say.

    Raises:
        ModelError: The shapes are not those of this head.
    """
    arrays = [np.asarray(to_numpy(output), dtype=np.float32) for output in outputs]
    flat = [array for array in arrays if array.ndim == 3]
    maps = [array for array in arrays if array.ndim == 4]
    shapes = ", ".join(str(array.shape) for array in arrays)
    problem = f"outputs of shape {shapes} are not those of a yolov8-seg head" + (f" with {nc} classes" if nc else "")
    if len(arrays) != 2 or len(flat) != 1 or flat[0].shape[0] != maps[0].shape[0]:
        raise ModelError(problem)
    layout = _layout(flat[0].shape, maps[0].shape, nc)
    if layout is None:
        raise ModelError(problem)
    predictions = flat[0] if layout.channels == 1 else flat[0].swapaxes(1, 2)
    prototypes = maps[0] if layout.map_channels == 1 else np.ascontiguousarray(maps[0].transpose(0, 3, 1, 2))
    return RawOutputs(predictions, without_noise(prototypes), layout.nc)


def without_noise(prototypes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return prototypes in which what is not finite is no part of any mask."""
    if np.isfinite(prototypes).all():
        return prototypes
    return np.nan_to_num(prototypes, nan=0.0, posinf=0.0, neginf=0.0)


class _Layout(Record, kw_only=False):
    channels: int
    map_channels: int
    nc: int


def _layout(predictions: tuple[int, ...], prototypes: tuple[int, ...], nc: int) -> _Layout | None:
    """Return which axes hold the channels: the first reading in which the numbers add up, or None.

    Anchors and prototypes have to belong to one input: as many anchors as levels of it have cells. Readings with three
    levels, as most models have, come first.
    """
    readings: list[tuple[bool, _Layout]] = []
    for channels in (1, 2):
        for map_channels in (1, 3):
            classes = predictions[channels] - 4 - prototypes[map_channels]
            height, width = (prototypes[axis] for axis in (1, 2, 3) if axis != map_channels)
            levels = _levels(predictions[3 - channels], height, width)
            # Rows of one level alone, channels last, may be what is left after suppression: (N, 300, 4 + 2 + nm).
            fewest = 1 if channels == 1 and nc else 2
            if classes > 0 and nc in {0, classes} and levels >= fewest:
                readings.append((levels != _USUAL_LEVELS, _Layout(channels, map_channels, classes)))
    return min(readings, key=lambda reading: reading[0])[1] if readings else None


def _levels(anchors: int, height: int, width: int) -> int:
    """Return on how many levels so many anchors lie, one in each cell, each level half as fine; 0: on no such levels.

    Args:
        anchors: Their number.
        height: Rows of the prototypes; the finest level may be twice as fine as they are.
        width: Columns of the prototypes.
    """
    cells = [-(-2 * height // 2**level) * -(-2 * width // 2**level) for level in range(_MOST_LEVELS)]
    runs = (
        stop - start
        for start in range(len(cells))
        for stop in range(start + 1, len(cells) + 1)
        if sum(cells[start:stop]) == anchors and (start <= _COARSEST_FIRST or stop - start == 1)
    )
    return min(runs, key=lambda count: abs(count - _USUAL_LEVELS), default=0)


def detect(predictions: NDArray[np.float32], nc: int, options: DecodeOptions) -> Detections:
    """Return the objects of one image.

    Args:
        predictions: float32 (4 + nc + nm, A).
        nc: Number of classes.
        options: ``conf iou max_det classes agnostic_nms multi_label``. A score counts when it is above ``conf``.
    """

    def corners(anchors: NDArray[np.int64]) -> NDArray[np.float32]:
        centre, half = predictions[0:2, anchors].T, predictions[2:4, anchors].T / 2
        return np.concatenate([centre - half, centre + half], axis=1)

    def sound(anchors: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray((np.abs(predictions[:, anchors]) < ANY_SIZE).all(axis=0))

    return detect_lazily(
        predictions[4 : 4 + nc], options, corners=corners, coefficients=predictions[4 + nc :], sound=sound
    )


def detect_lazily(
    scores: NDArray[np.float32],
    options: DecodeOptions,
    *,
    corners: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    coefficients: NDArray[np.float32],
    sound: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
) -> Detections:
    """Return the objects of one image, of whose boxes only those are made that score enough.

    Args:
        scores: float32 (nc, A).
        options: As for :func:`detect`.
        corners: Returns the boxes of some anchors, float32 (n, 4), x1, y1, x2, y2.
        coefficients: float32 (nm, A).
        sound: Returns which of some anchors have finite boxes, scores and coefficients, bool (n,).
    """
    best_scores, classes, anchors = _candidates(scores, options, sound)
    best = np.argsort(-best_scores, kind="stable")[:MAX_CANDIDATES]
    best_scores, classes, anchors = best_scores[best], classes[best], anchors[best]
    boxes = corners(anchors)
    groups = None if options.agnostic_nms else classes
    kept = nms(boxes, best_scores, groups, iou=options.iou, max_det=options.max_det)
    chosen = np.ascontiguousarray(coefficients[:, anchors[kept]].T)
    return Detections(boxes[kept], best_scores[kept], classes[kept], chosen)


def _candidates(
    scores: NDArray[np.float32], options: DecodeOptions, sound: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return score, class and anchor of whatever is above ``conf``: for each anchor the best class, or each class.

    Anchors whose box, scores or coefficients are not finite are left out.
    """
    if options.multi_label:
        flat = np.flatnonzero(scores > options.conf)  # ten times quicker than nonzero of two axes
        classes = flat // scores.shape[1]
        anchors = flat - classes * scores.shape[1]
    else:
        anchors = np.flatnonzero(scores.max(axis=0) > options.conf)
        classes = scores[:, anchors].argmax(axis=0)
    if options.classes is not None:
        wanted = np.isin(classes, options.classes)
        classes, anchors = classes[wanted], anchors[wanted]
    fine = sound(anchors)
    if not fine.all():  # an object that is not finite is none, and would take its neighbours with it
        classes, anchors = classes[fine], anchors[fine]
    return scores[classes, anchors], classes, anchors
