"""Streaming COCO evaluation: masks are matched image by image and not kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from segx_task_segment.metrics.coco import AREAS, Evidence, ImageMatches, annotations_of, found_in, match_image
from segx_task_segment.metrics.confusion import ConfusionMatrix
from segx_task_segment.metrics.metrics import IouTypeMetrics, SegmentMetrics
from segx_task_segment.metrics.table import MatchTable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from segx.structures.annotations import Sample
    from segx_task_segment.metrics.coco import AnnotationArrays, IouMatches
    from segx_task_segment.results import SegmentResults

Fitness = Literal["mask", "box", "both"]

WORKING_SCORE = 0.25
"""Score from which a detection counts in the confusion matrix, the match table and the ranking of images."""


@dataclass(kw_only=True, eq=False)
class _IouType:
    """What is gathered of one kind: boxes or masks."""

    name: str
    letter: str
    classes: int
    objects: NDArray[np.int64] = field(init=False)
    ignored_objects: int = 0
    hit: list[NDArray[np.uint16]] = field(default_factory=list)
    ignored: list[NDArray[np.uint16]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.objects = np.zeros((self.classes, len(AREAS)), np.int64)

    def add(self, matches: IouMatches, annotations: AnnotationArrays) -> None:
        """Add the matches of one image."""
        self.hit.append(matches.hit)
        self.ignored.append(matches.ignored)
        self.ignored_objects += int((matches.ignored_objects & ~annotations.crowd).sum())
        counted = np.flatnonzero(~matches.ignored_objects)
        for area, (low, high) in enumerate(AREAS.values()):
            inside = counted[(annotations.area[counted] >= low) & (annotations.area[counted] <= high)]
            np.add.at(self.objects[:, area], annotations.category[inside], 1)


class SegmentEvaluator:
    """Measures boxes and masks by the COCO protocol.

    Args:
        names: Class number to class name of the data set.
        classes: Measure only these class numbers.
        single_cls: Treat all classes as one.
        fitness: What :attr:`SegmentMetrics.fitness` is: the mask AP, the box AP, or their sum.
        working_score: Score from which a detection counts in the confusion matrix and the match table.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        *,
        classes: Sequence[int] | None = None,
        single_cls: bool = False,
        fitness: Fitness = "mask",
        working_score: float = WORKING_SCORE,
    ) -> None:
        self.names = {0: "object"} if single_cls else dict(names)
        self._data_names = dict(names)
        self._classes, self._single, self._fitness = classes, single_cls, fitness
        self.working_score = working_score
        self.box = _IouType(name="box", letter="B", classes=len(self.names))
        self.seg = _IouType(name="mask", letter="M", classes=len(self.names))
        self.confusion = ConfusionMatrix.empty(self.names, score=working_score)
        self.table = MatchTable(self.names)
        self._images: list[tuple[int, int | str]] = []
        self._per_class = np.zeros(len(self.names), np.int64)
        self._category: list[NDArray[np.int64]] = []
        self._score: list[NDArray[np.float64]] = []
        self._rank: list[NDArray[np.int64]] = []
        self._count = self._crowds = 0

    def update(self, sample: Sample, results: SegmentResults) -> ImageMatches:
        """Add the results of one image.

        Returns:
            What became of it, for whoever writes or draws it.

        Raises:
            UsageError: The masks are not at the image's resolution.
        """
        found = found_in(results, self._data_names, classes=self._classes, single=self._single)
        annotations = annotations_of(sample, classes=self._classes, single=self._single)
        box = match_image(found, annotations, "box")
        seg = match_image(found, annotations, "mask", told_from=self.working_score)
        self.box.add(box, annotations)
        self.seg.add(seg, annotations)
        self._crowds += int(annotations.crowd.sum())
        self._per_class[np.unique(annotations.category[~annotations.crowd])] += 1
        self._images.append((len(found), sample.id))
        self._category.append(found.category)
        self._score.append(found.score)
        self._rank.append(found.rank)
        matches = ImageMatches(
            sample=sample, found=found, annotations=annotations, box=box, seg=seg, first_id=self._count + 1
        )
        self._count += len(found)
        self.confusion.add(matches)
        self.table.add(matches, self.working_score)
        return matches

    def finish(self, *, speed: Mapping[str, float] | None = None) -> SegmentMetrics:
        """Return the figures of all images taken so far."""
        order = self._order()
        iou_types = {iou_type.name: self._figures(iou_type, order) for iou_type in (self.box, self.seg)}
        return SegmentMetrics(
            box=iou_types["box"],
            seg=iou_types["mask"],
            names=self.names,
            images=len(self._images),
            images_per_class=self._per_class.copy(),
            detections=self._count,
            crowds=self._crowds,
            confusion_matrix=self.confusion,
            matches=self.table,
            speed=dict(speed or {}),
            fitness_of=self._fitness,
        )

    def _order(self) -> NDArray[np.int64]:
        """Return all detections, images by id as COCO takes them, whatever order they came in."""
        ids = [number for _, number in self._images]
        by_id = sorted(range(len(ids)), key=lambda i: (isinstance(ids[i], str), ids[i]))
        sizes = np.array([size for size, _ in self._images], np.int64)
        starts = np.cumsum(sizes) - sizes
        pieces = [np.arange(starts[i], starts[i] + sizes[i]) for i in by_id]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)

    def _figures(self, iou_type: _IouType, order: NDArray[np.int64]) -> IouTypeMetrics:
        def gathered(parts: list[NDArray[np.uint16]]) -> NDArray[np.uint16]:
            return np.concatenate(parts, axis=-1)[..., order] if parts else np.zeros((len(AREAS), 0), np.uint16)

        category = np.concatenate([*self._category, np.zeros(0, np.int64)])[order].astype(np.int32)
        score = np.concatenate([*self._score, np.zeros(0)])[order]
        evidence = Evidence(
            category=category,
            score=score,
            rank=np.concatenate([*self._rank, np.zeros(0, np.int64)])[order].astype(np.int32),
            hit=gathered(iou_type.hit),
            ignored=gathered(iou_type.ignored),
            objects=iou_type.objects,
        )
        return IouTypeMetrics.of(
            evidence,
            names=self.names,
            name=iou_type.name,
            letter=iou_type.letter,
            ignored_objects=iou_type.ignored_objects,
        )
