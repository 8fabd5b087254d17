"""Matches between the detections and the annotations of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from segx.ops import boxes
from segx_task_segment.metrics.matching import AREAS, MOST, THRESHOLDS, match

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segx.structures.sample import Sample
    from segx_task_segment.metrics.arrays import AnnotationArrays, Found

IouType = Literal["box", "mask"]

NEGLIGIBLE = 0.1
"""Overlaps that cannot reach this are not worth counting pixels for."""

_ALL = np.uint16((1 << len(THRESHOLDS)) - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class IouMatches:
    """Matches of one image by box or by mask IoU.

    Attributes:
        hit: uint16 (areas, detections), bit per threshold.
        ignored: uint16 (areas, detections), bit per threshold.
        partner: int64 (detections), the object found at IoU 0.5; -1 for none.
        iou: (detections, objects); 0 between different classes.
        ignored_objects: bool (objects), crowds and what has no ground truth of this kind.
    """

    hit: NDArray[np.uint16]
    ignored: NDArray[np.uint16]
    partner: NDArray[np.int64]
    iou: NDArray[np.float64]
    ignored_objects: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageMatches:
    """Detections, annotations and matches of one image.

    Attributes:
        sample: The image and its ground truth.
        found: What was found.
        annotations: The ground truth.
        box: Matches by box.
        seg: Matches by mask.
        first_id: Number of the first detection in ``predictions.json``, counted from 1.
    """

    sample: Sample
    found: Found
    annotations: AnnotationArrays
    box: IouMatches
    seg: IouMatches
    first_id: int


def match_image(found: Found, annotations: AnnotationArrays, iou_type: IouType) -> IouMatches:
    """Match what was found in an image with its ground truth, class by class."""
    ignored_objects = annotations.crowd if iou_type == "box" else annotations.crowd | ~annotations.with_mask
    areas = found.box_areas if iou_type == "box" else found.mask_areas
    ranges = np.array(list(AREAS.values()))
    outside = (areas < ranges[:, :1]) | (areas > ranges[:, 1:])
    hit = np.zeros((len(AREAS), len(found)), np.uint16)
    ignored = np.where(outside, _ALL, np.uint16(0))
    partner = np.full(len(found), -1, np.int64)
    overlaps = np.zeros((len(found), len(annotations)))
    for category in np.intersect1d(annotations.category, found.category).tolist():
        objects = np.flatnonzero(annotations.category == category)
        rows = np.flatnonzero(found.category == category)
        if iou_type == "box":
            ours, theirs = found.box[rows], annotations.box[objects]
            sizes = ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]
            iou = boxes.iou(_corners(ours), _corners(theirs), areas=sizes, crowd=ignored_objects[objects])
        else:
            crowd = ignored_objects[objects]
            iou = found.masks[rows].iou(annotations.masks[objects], crowd=crowd, least=NEGLIGIBLE)
        overlaps[np.ix_(rows, objects)] = iou
        seen = rows[:MOST]
        matches = match(
            iou[:MOST],
            crowd=ignored_objects[objects],
            annotation_areas=annotations.area[objects],
            found_areas=areas[seen],
        )
        hit[:, seen], ignored[:, seen] = matches.hit, matches.ignored
        partner[seen] = np.where(matches.partner >= 0, objects[matches.partner], -1)
    return IouMatches(hit=hit, ignored=ignored, partner=partner, iou=overlaps, ignored_objects=ignored_objects)


def _corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1)
