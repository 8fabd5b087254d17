"""Detections and annotations of one image as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from segx.errors import UsageError
from segx.structures.annotations import masks_of
from segx.structures.masks import Masks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from segx.structures.sample import Sample
    from segx_task_segment.results import SegmentResults


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
