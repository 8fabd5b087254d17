"""Matching of detections to annotations by COCO's rule.

The rule (Lin et al., 2014; ``evaluateImg`` of the COCO API): detections of a class, best score first, each take the
free object they overlap most; objects that are ignored (crowds, or outside the range of areas) come second and make
the detection ignored too; a crowd can be taken any number of times.

One detection has an answer for each IoU threshold. The ten answers are the ten low bits of a number, so that one pass
over the candidates, best overlap first, settles all thresholds at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds; bit ``t`` of an answer belongs to ``THRESHOLDS[t]``."""

AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's ranges of area, in pixels, both ends included."""

MOST = 100
"""COCO looks at this many detections of a class in an image, the best scores first."""

_ALL = (1 << len(THRESHOLDS)) - 1
_LEAST = np.minimum(THRESHOLDS, 1 - 1e-10)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassMatches:
    """Matches of one class in one image.

    Attributes:
        hit: uint16 (areas, detections), bit per threshold: it found an object that counts.
        ignored: uint16 (areas, detections), bit per threshold: it is neither right nor wrong.
        partner: int64 (detections), the object found at the lowest threshold, all areas; -1 for none.
    """

    hit: NDArray[np.uint16]
    ignored: NDArray[np.uint16]
    partner: NDArray[np.int64]


def match(
    iou: NDArray[np.float64],
    *,
    crowd: NDArray[np.bool_],
    annotation_areas: NDArray[np.float64],
    found_areas: NDArray[np.float64],
) -> ClassMatches:
    """Match the detections of one class in one image by COCO's rule.

    Args:
        iou: (detections, objects), detections by descending score.
        crowd: bool (objects).
        annotation_areas: (objects), as the data set gives them.
        found_areas: (detections).
    """
    ranges = np.array(list(AREAS.values()))
    outside_annotation = (annotation_areas < ranges[:, :1]) | (annotation_areas > ranges[:, 1:])
    outside_found = (found_areas < ranges[:, :1]) | (found_areas > ranges[:, 1:])
    skipped = (outside_annotation | crowd).tolist()
    hit = np.zeros((len(ranges), len(iou)), np.uint16)
    ignored = np.zeros_like(hit)
    partner = np.full(len(iou), -1, np.int64)
    passed = (iou[..., None] >= _LEAST).sum(axis=-1)
    taken = [[0] * iou.shape[1] for _ in ranges]
    crowds = crowd.tolist()
    for detection in np.flatnonzero(passed.any(axis=1)).tolist():
        candidates = _candidates(iou[detection], passed[detection])
        for area, (skip, used) in enumerate(zip(skipped, taken, strict=True)):
            right, neither, best = _take(candidates, skip, crowds, used)
            hit[area, detection], ignored[area, detection] = right, neither
            if area == 0:
                partner[detection] = best
    ignored |= np.where(outside_found, np.uint16(_ALL) & ~(hit | ignored), np.uint16(0))
    return ClassMatches(hit=hit, ignored=ignored, partner=partner)


def _candidates(iou: NDArray[np.float64], passed: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the objects a detection overlaps enough and the thresholds it passes, best first, the later of equals."""
    objects = np.flatnonzero(passed)
    order = objects[np.lexsort((-objects, -iou[objects]))] if objects.size > 1 else objects
    return [(number, (1 << int(passed[number])) - 1) for number in order.tolist()]


def _take(
    candidates: list[tuple[int, int]], skip: list[bool], crowds: list[bool], used: list[int]
) -> tuple[int, int, int]:
    """Give a detection its object at each threshold; return thresholds hit, thresholds ignored, object at the lowest.

    ``used`` holds for each object the thresholds at which it is taken, and is updated.
    """
    open_, right, neither, best = _ALL, 0, 0, -1
    for second_choice in (False, True):
        for number, thresholds in candidates:
            if skip[number] is not second_choice:
                continue
            free = thresholds & open_ if crowds[number] else thresholds & open_ & ~used[number]
            if not free:
                continue
            used[number] |= free
            open_ &= ~free
            if free & 1:
                best = number
            if second_choice:
                neither |= free
            else:
                right |= free
    return right, neither, best
