"""The two sides that are compared in a picture, as arrays: what was found, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from segx.interfaces import Sample, Truth
    from segx.results import Results

RLE = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What was found in one picture, best score first.

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
    results: Results
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.category)

    @cached_property
    def rles(self) -> list[RLE]:
        """The masks as COCO RLE."""
        every = self.results.masks.rle
        return [dict(every[row]) for row in self.rows.tolist()]

    @cached_property
    def box_areas(self) -> NDArray[np.float64]:
        """(N,), in pixels."""
        return np.asarray(self.box[:, 2] * self.box[:, 3], np.float64)

    @cached_property
    def mask_areas(self) -> NDArray[np.float64]:
        """(N,), in pixels."""
        return self.results.masks.area[self.rows].astype(np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class TruthArrays:
    """The objects of one picture.

    Attributes:
        category: int64 (N).
        box: float64 (N, 4), x, y, width, height in pixels.
        crowd: bool (N).
        with_mask: bool (N); the others are known by their box only.
        area: float64 (N), as the data set gives it, else of the mask, else of the box.
        id: int64 (N).
        rles: The masks as COCO RLE; the box's rectangle where only that is known.
    """

    category: NDArray[np.int64]
    box: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    with_mask: NDArray[np.bool_]
    area: NDArray[np.float64]
    id: NDArray[np.int64]
    rles: Sequence[RLE]

    def __len__(self) -> int:
        return len(self.category)


def found_in(
    results: Results, names: Mapping[int, str], *, classes: Sequence[int] | None = None, single: bool = False
) -> Found:
    """Return what was found, of the classes that are measured.

    Raises:
        UsageError: The masks are not at the picture's resolution.
    """
    boxes = results.boxes.data.astype(np.float64)
    if len(boxes) and (not len(results.masks) or results.masks.frame != results.orig_shape):
        raise UsageError("masks are measured at the picture's own resolution", hint="decode with retina_masks=true")
    category = boxes[:, 5].astype(np.int64)
    wanted = np.isin(category, list(names) if classes is None else list(classes))
    if single:
        category = np.zeros_like(category)
    kept = np.flatnonzero(wanted)
    rows = kept[np.argsort(-boxes[kept, 4], kind="stable")]
    box = np.concatenate([boxes[rows, :2], boxes[rows, 2:4] - boxes[rows, :2]], axis=1).round(4)
    return Found(
        category=category[rows],
        score=boxes[rows, 4],
        box=box,
        rank=_ranks(category[rows]),
        results=results,
        rows=rows,
    )


def truth_of(sample: Sample, *, classes: Sequence[int] | None = None, single: bool = False) -> TruthArrays:
    """Return the objects of a picture, of the classes that are measured, rasterised as COCO does."""
    from faster_coco_eval.core import mask as coco_mask

    truths = [truth for truth in sample.truths if classes is None or truth.category in classes]
    rles = [rasterise(truth, sample.shape) for truth in truths]
    areas = coco_mask.area(rles).astype(np.float64) if rles else np.zeros(0)
    for index, truth in enumerate(truths):
        if truth.area is not None:
            areas[index] = truth.area
        elif not truth.has_mask:
            areas[index] = truth.box[2] * truth.box[3]
    return TruthArrays(
        category=np.array([0 if single else truth.category for truth in truths], np.int64),
        box=np.array([truth.box for truth in truths], np.float64).reshape(-1, 4),
        crowd=np.array([truth.crowd for truth in truths], np.bool_),
        with_mask=np.array([truth.has_mask for truth in truths], np.bool_),
        area=areas,
        id=np.array([truth.id for truth in truths], np.int64),
        rles=rles,
    )


def rasterise(truth: Truth, shape: tuple[int, int]) -> RLE:
    """Return an object's mask as COCO RLE, pixel for pixel as the COCO API fills polygons."""
    from faster_coco_eval.core import mask as coco_mask

    if truth.rle is not None:
        return dict(truth.rle)
    x, y, width, height = truth.box
    corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    rings = [ring.ravel().tolist() for ring in truth.polygons] or [corners.ravel().tolist()]
    parts = coco_mask.frPyObjects(rings, *shape)
    whole: RLE = parts[0] if len(parts) == 1 else coco_mask.merge(parts)
    return whole


def mask_iou(found: Sequence[RLE], truth: Sequence[RLE], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (found, truth) overlaps of masks; over the found mask's own area for crowds."""
    from faster_coco_eval.core import mask as coco_mask

    if not found or not truth:
        return np.zeros((len(found), len(truth)))
    overlaps = coco_mask.iou(list(found), list(truth), crowd.astype(int).tolist())
    return np.asarray(overlaps, np.float64).reshape(len(found), len(truth))


def pick(items: Sequence[RLE], rows: NDArray[np.int64]) -> list[RLE]:
    """Return some of a list."""
    return [items[row] for row in rows.tolist()]


def _ranks(category: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each row among the earlier rows of its class."""
    order = np.argsort(category, kind="stable")
    ordered = category[order]
    first = np.searchsorted(ordered, ordered, side="left")
    ranks = np.empty(len(category), np.int64)
    ranks[order] = np.arange(len(category)) - first
    return ranks
