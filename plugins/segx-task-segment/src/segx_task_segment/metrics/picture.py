"""What became of the detections and the objects of one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from segx_task_segment.metrics.matching import AREAS, MOST, THRESHOLDS, box_iou, match, match_incumbent
from segx_task_segment.metrics.objects import mask_iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segx.structures.sample import Sample
    from segx_task_segment.metrics.objects import Found, TruthArrays

Kind = Literal["box", "mask"]

_ALL = np.uint16((1 << len(THRESHOLDS)) - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureMatches:
    """What became of the detections in one picture, of one kind.

    Attributes:
        hit: uint16 (areas, detections), bit per threshold.
        ignored: uint16 (areas, detections), bit per threshold.
        partner: int64 (detections), the object found at IoU 0.5; -1 for none.
        iou: (detections, objects); 0 between different classes.
        incumbent: uint16 (detections), bit per threshold, by the incumbent's rule; empty when not asked for.
        neutral: bool (objects), crowds and what has no truth of this kind.
    """

    hit: NDArray[np.uint16]
    ignored: NDArray[np.uint16]
    partner: NDArray[np.int64]
    iou: NDArray[np.float64]
    incumbent: NDArray[np.uint16]
    neutral: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureVerdict:
    """What became of one picture.

    Attributes:
        sample: The picture and its truth.
        found: What was found.
        truth: The truth.
        box: Matches by box.
        seg: Matches by mask.
        first_id: Number of the first detection in ``predictions.json``, counted from 1.
    """

    sample: Sample
    found: Found
    truth: TruthArrays
    box: PictureMatches
    seg: PictureMatches
    first_id: int


def match_picture(found: Found, truth: TruthArrays, kind: Kind, *, compat: bool = False) -> PictureMatches:
    """Match what was found in a picture with its truth, class by class."""
    neutral = truth.crowd if kind == "box" else truth.crowd | ~truth.with_mask
    areas = found.box_areas if kind == "box" else found.mask_areas
    ranges = np.array(list(AREAS.values()))
    outside = (areas < ranges[:, :1]) | (areas > ranges[:, 1:])
    hit = np.zeros((len(AREAS), len(found)), np.uint16)
    ignored = np.where(outside, _ALL, np.uint16(0))
    partner = np.full(len(found), -1, np.int64)
    overlaps = np.zeros((len(found), len(truth)))
    incumbent = np.zeros(len(found) if compat else 0, np.uint16)
    for category in np.intersect1d(truth.category, found.category).tolist():
        objects = np.flatnonzero(truth.category == category)
        rows = np.flatnonzero(found.category == category)
        if kind == "box":
            iou = box_iou(found.box[rows], truth.box[objects], neutral[objects])
        else:
            iou = mask_iou(found.masks[rows], truth.masks[objects], neutral[objects], areas=areas[rows])
        overlaps[np.ix_(rows, objects)] = iou
        seen = rows[:MOST]
        matches = match(iou[:MOST], crowd=neutral[objects], truth_areas=truth.area[objects], found_areas=areas[seen])
        hit[:, seen], ignored[:, seen] = matches.hit, matches.ignored
        partner[seen] = np.where(matches.partner >= 0, objects[matches.partner], -1)
        if compat:
            incumbent[rows] = match_incumbent(iou[:, ~neutral[objects]])
    return PictureMatches(hit=hit, ignored=ignored, partner=partner, iou=overlaps, incumbent=incumbent, neutral=neutral)
