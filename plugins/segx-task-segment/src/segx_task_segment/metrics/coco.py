"""COCO's protocol: what was found in each image against what there is, and what that comes to over a data set.

Matching (Lin et al., 2014; ``evaluateImg`` of the COCO API): detections of a class, best score first, each take the
free object they overlap most; objects that are ignored (crowds, or outside the range of areas) come second and make
the detection ignored too; a crowd can be taken any number of times.

One detection has an answer for each IoU threshold. The ten answers are the ten low bits of a number, so that one pass
over the candidates, best overlap first, settles all thresholds at once.

Averages are those of ``accumulate`` and ``summarize``; the figures equal pycocotools'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from segx.errors import UsageError
from segx.ops import boxes
from segx.structures.annotations import masks_of
from segx.structures.masks import Masks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from segx.structures.annotations import Sample
    from segx_task_segment.results import SegmentResults

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds; bit ``t`` of an answer belongs to ``THRESHOLDS[t]``."""

AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's ranges of area, in pixels, both ends included."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""COCO's recall points."""

MAX_DETS = (1, 10, 100)
"""COCO's ``maxDets``: it looks at so many detections of a class in an image, the best scores first; at all of the last
for precision, at each for recall."""

_BITS = np.arange(len(THRESHOLDS), dtype=np.uint16)[:, None]
_ALL = (1 << len(THRESHOLDS)) - 1
_LEAST = np.minimum(THRESHOLDS, 1 - 1e-10)

IouType = Literal["box", "mask"]

NEGLIGIBLE = 0.1
"""Overlaps that cannot reach this are not worth counting pixels for, even where somebody looks at them one by one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What was found in one image, best score first.

    Attributes:
        category: int64 (N).
        score: float64 (N).
        box: float64 (N, 4), x, y, width, height in pixels, to 1/10000.
        rank: int64 (N), place within its class, from 0.
        results: Where the masks are.
        rows: int64 (N), row of each in ``results``.
    """

    category: NDArray[np.int64]
    score: NDArray[np.float64]
    box: NDArray[np.float64]
    rank: NDArray[np.int64]
    results: SegmentResults
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.category)

    @cached_property
    def masks(self) -> Masks:
        """The masks."""
        return self.results.masks[self.rows] if len(self.rows) else Masks.empty(self.results.orig_shape)

    @cached_property
    def box_areas(self) -> NDArray[np.float64]:
        """(N,), in pixels."""
        return np.asarray(self.box[:, 2] * self.box[:, 3], np.float64)

    @cached_property
    def mask_areas(self) -> NDArray[np.float64]:
        """(N,), in pixels."""
        return self.masks.area.astype(np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotationArrays:
    """The objects of one image.

    Attributes:
        category: int64 (N).
        box: float64 (N, 4), x, y, width, height in pixels.
        crowd: bool (N).
        with_mask: bool (N); the others are known by their box only.
        area: float64 (N), as the data set gives it, else of the mask, else of the box.
        id: int64 (N).
        masks: The masks; the box's rectangle where only that is known.
    """

    category: NDArray[np.int64]
    box: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    with_mask: NDArray[np.bool_]
    area: NDArray[np.float64]
    id: NDArray[np.int64]
    masks: Masks

    def __len__(self) -> int:
        return len(self.category)


def found_in(
    results: SegmentResults, names: Mapping[int, str], *, classes: Sequence[int] | None = None, single: bool = False
) -> Found:
    """Return what was found, of the classes that are measured.

    Raises:
        UsageError: The masks are not at the image's resolution.
    """
    boxes = results.boxes.data.astype(np.float64)
    if len(boxes) and (not len(results.masks) or results.masks.frame != results.orig_shape):
        raise UsageError("masks are measured at the image's own resolution", hint="decode with retina_masks=true")
    category = boxes[:, -1].astype(np.int64)
    wanted = np.isin(category, list(names) if classes is None else list(classes))
    if single:
        category = np.zeros_like(category)
    kept = np.flatnonzero(wanted)
    rows = kept[np.argsort(-boxes[kept, -2], kind="stable")]
    box = np.concatenate([boxes[rows, :2], boxes[rows, 2:4] - boxes[rows, :2]], axis=1).round(4)
    return Found(
        category=category[rows],
        score=boxes[rows, -2],
        box=box,
        rank=_ranks(category[rows]),
        results=results,
        rows=rows,
    )


def annotations_of(sample: Sample, *, classes: Sequence[int] | None = None, single: bool = False) -> AnnotationArrays:
    """Return the objects of an image, of the classes that are measured, rasterised as COCO does."""
    annotations = [annotation for annotation in sample.annotations if classes is None or annotation.category in classes]
    masks = masks_of(annotations, sample.shape, boxes=True)
    areas = masks.area.astype(np.float64)
    for index, annotation in enumerate(annotations):
        if annotation.area is not None:
            areas[index] = annotation.area
        elif not annotation.has_mask:
            areas[index] = annotation.box[2] * annotation.box[3]
    return AnnotationArrays(
        category=np.array([0 if single else annotation.category for annotation in annotations], np.int64),
        box=np.array([annotation.box for annotation in annotations], np.float64).reshape(-1, 4),
        crowd=np.array([annotation.crowd for annotation in annotations], np.bool_),
        with_mask=np.array([annotation.has_mask for annotation in annotations], np.bool_),
        area=areas,
        id=np.array([annotation.id for annotation in annotations], np.int64),
        masks=masks,
    )


def _ranks(category: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each row among the earlier rows of its class."""
    order = np.argsort(category, kind="stable")
    ordered = category[order]
    first = np.searchsorted(ordered, ordered, side="left")
    ranks = np.empty(len(category), np.int64)
    ranks[order] = np.arange(len(category)) - first
    return ranks


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


@dataclass(frozen=True, kw_only=True, eq=False)
class IouMatches:
    """Matches of one image by box or by mask IoU.

    Attributes:
        hit: uint16 (areas, detections), bit per threshold.
        ignored: uint16 (areas, detections), bit per threshold.
        partner: int64 (detections), the object found at IoU 0.5; -1 for none.
        iou: (detections, objects); 0 between different classes, and where it is too small to be told.
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


def match_image(
    found: Found, annotations: AnnotationArrays, iou_type: IouType, *, seen_from: float = 0.0
) -> IouMatches:
    """Match what was found in an image with its ground truth, class by class.

    Args:
        found: What was found.
        annotations: The ground truth.
        iou_type: Compare boxes or masks.
        seen_from: Score from which overlaps that match nothing are returned; of masks below it they may be 0.
    """
    ignored_objects = annotations.crowd if iou_type == "box" else annotations.crowd | ~annotations.with_mask
    areas = found.box_areas if iou_type == "box" else found.mask_areas
    ranges = np.array(list(AREAS.values()))
    outside = (areas < ranges[:, :1]) | (areas > ranges[:, 1:])
    hit = np.zeros((len(AREAS), len(found)), np.uint16)
    ignored = np.where(outside, np.uint16(_ALL), np.uint16(0))
    partner = np.full(len(found), -1, np.int64)
    same = found.category[:, None] == annotations.category[None]
    if iou_type == "mask":
        least = np.where(found.score >= seen_from, NEGLIGIBLE, THRESHOLDS[0])[:, None]
        overlaps = found.masks.iou(annotations.masks, crowd=ignored_objects, least=least, among=same)
    else:
        sizes = areas, annotations.box[:, 2] * annotations.box[:, 3]
        iou = boxes.iou(_corners(found.box), _corners(annotations.box), areas=sizes, crowd=ignored_objects)
        overlaps = np.where(same, iou, 0.0)
    for category in np.intersect1d(annotations.category, found.category).tolist():
        objects = np.flatnonzero(annotations.category == category)
        seen = np.flatnonzero(found.category == category)[: MAX_DETS[-1]]
        matches = match(
            overlaps[np.ix_(seen, objects)],
            crowd=ignored_objects[objects],
            annotation_areas=annotations.area[objects],
            found_areas=areas[seen],
        )
        hit[:, seen], ignored[:, seen] = matches.hit, matches.ignored
        partner[seen] = np.where(matches.partner >= 0, objects[matches.partner], -1)
    return IouMatches(hit=hit, ignored=ignored, partner=partner, iou=overlaps, ignored_objects=ignored_objects)


def _corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1)


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
    recall_at = np.full((classes, len(MAX_DETS)), np.nan)
    for category in np.flatnonzero(evidence.objects[:, 0]).tolist():
        order = by_score(evidence, category)
        for area in np.flatnonzero(evidence.objects[category]).tolist():
            count = int(evidence.objects[category, area])
            right, wrong = _outcomes(evidence, order, area)
            precision[category, area], recall[category, area] = _curve(right, wrong, count)
            if area == 0:
                rank = evidence.rank[order]
                found = [right[:, rank < limit].sum(axis=1) for limit in MAX_DETS]
                recall_at[category] = np.mean(found, axis=1) / count
    return Averages(precision=precision, recall=recall, recall_at=recall_at)


def by_score(evidence: Evidence, category: int) -> NDArray[np.int64]:
    """Return the detections of a class that COCO looks at, best score first."""
    chosen = np.flatnonzero((evidence.category == category) & (evidence.rank < MAX_DETS[-1]))
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
