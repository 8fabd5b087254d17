"""Checks COCO annotations one by one and collects those that hold as columns."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from segx import rle
from segx.truths import TruthTable, starts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_FEWEST_NUMBERS = 6
"""Three points."""


class _BadError(ValueError):
    """Why an annotation, or a part of one, is left out."""


class AnnotationColumns:
    """Annotations as columns.

    Args:
        pictures: Id to position of each picture.
        categories: Id to position of each category.
        sizes: int32 (pictures, 2), height and width; 0 where unknown.

    Attributes:
        problems: What was left out: the annotation and the reason.
    """

    def __init__(
        self,
        *,
        pictures: Mapping[int | str, int],
        categories: Mapping[int, int],
        sizes: NDArray[np.int32],
    ) -> None:
        self.problems: list[str] = []
        self._pictures, self._categories = pictures, categories
        self._sizes = sizes.tolist()
        self._seen: set[Any] = set()
        self._picture, self._category, self._crowd = array("q"), array("i"), array("b")
        self._area, self._id, self._box = array("d"), array("q"), array("d")
        self._parts, self._points, self._xy = array("q"), array("q"), array("d")
        self._runs, self._counts = array("q"), bytearray()

    def add(self, annotation: Any, position: int) -> None:
        """Take one annotation, or name what is wrong with it."""
        number = annotation.get("id", position) if isinstance(annotation, dict) else position
        try:
            self._add(annotation, number)
        except _BadError as reason:
            self.problems.append(f"annotation {number}: {reason}")

    def _add(self, annotation: Any, number: Any) -> None:
        if not isinstance(annotation, dict):
            msg = "is not a mapping"
            raise _BadError(msg)
        if not isinstance(number, int) or number in self._seen:
            msg = "its id is there twice" if isinstance(number, int) else "its id is not a number"
            raise _BadError(msg)
        picture = self._pictures.get(annotation.get("image_id", ""), -1)
        if picture < 0:
            msg = f"image {annotation.get('image_id')!r} is not among the images"
            raise _BadError(msg)
        category = self._categories.get(annotation.get("category_id", ""), -1)
        if category < 0:
            msg = f"category {annotation.get('category_id')!r} is not among the categories"
            raise _BadError(msg)
        box = _box(annotation.get("bbox"))
        segmentation = annotation.get("segmentation") or []
        before, parts, counts = len(self._xy), 0, b""
        if isinstance(segmentation, dict):
            counts = _counts(segmentation, self._sizes[picture])
        elif isinstance(segmentation, list):
            parts = self._take_polygons(segmentation, number)
        else:
            msg = f"its segmentation is a {type(segmentation).__name__}"
            raise _BadError(msg)
        if box is None:
            box = _box_of(self._xy[before:], counts, self._sizes[picture])
        if box is None or box[2] <= 0 or box[3] <= 0:
            self._forget_polygons(before, parts)
            msg = "has no bbox, polygon or RLE that holds" if box is None else "its box is empty"
            raise _BadError(msg)
        area = annotation.get("area")
        self._seen.add(number)
        self._picture.append(picture)
        self._category.append(category)
        self._crowd.append(bool(annotation.get("iscrowd")))
        self._area.append(area if isinstance(area, int | float) else math.nan)
        self._id.append(number)
        self._box.extend(box)
        self._parts.append(parts)
        self._runs.append(len(counts))
        self._counts += counts

    def _take_polygons(self, polygons: list[Any], number: Any) -> int:
        """Take the parts that hold, name the others, and return how many were taken."""
        if isinstance(polygons[0] if polygons else None, int | float):
            polygons = [polygons]
        taken, before, area = 0, len(self._xy), 0.0
        for part, polygon in enumerate(polygons, start=1):
            start = len(self._xy)
            try:
                area += self._take_polygon(polygon)
            except _BadError as reason:
                del self._xy[start:]
                self.problems.append(f"annotation {number}: part {part}: {reason}")
                continue
            self._points.append((len(self._xy) - start) // 2)
            taken += 1
        if taken and area == 0:
            self._forget_polygons(before, taken)
            msg = "its polygon has no area"
            raise _BadError(msg)
        return taken

    def _take_polygon(self, polygon: Any) -> float:
        if not isinstance(polygon, list) or len(polygon) < _FEWEST_NUMBERS or len(polygon) % 2:
            length = len(polygon) if isinstance(polygon, list) else 0
            msg = f"{length} numbers are no polygon: it takes three points or more"
            raise _BadError(msg)
        start = len(self._xy)
        try:
            self._xy.extend(polygon)
        except TypeError as error:
            msg = "holds something that is no number"
            raise _BadError(msg) from error
        total = math.fsum(self._xy[start:])
        if not math.isfinite(total):
            msg = "holds NaN or infinity"
            raise _BadError(msg)
        return _ring_area(polygon)

    def _forget_polygons(self, before: int, parts: int) -> None:
        del self._xy[before:]
        if parts:
            del self._points[-parts:]

    def table(self) -> TruthTable:
        """Return the annotations taken, grouped by picture, in the order they came."""
        picture = np.array(self._picture, np.int64)
        table = TruthTable(
            rows=np.array([0, len(picture)], np.int64),
            category=np.array(self._category, np.int32),
            crowd=np.array(self._crowd, np.bool_),
            area=np.array(self._area, np.float64),
            id=np.array(self._id, np.int64),
            box=np.array(self._box, np.float64).reshape(-1, 4),
            parts=starts_of(np.array(self._parts, np.int64)),
            points=starts_of(np.array(self._points, np.int64)),
            xy=np.array(self._xy, np.float64).reshape(-1, 2),
            runs=starts_of(np.array(self._runs, np.int64)),
            counts=np.frombuffer(bytes(self._counts), np.uint8),
        )
        per_picture = np.bincount(picture, minlength=len(self._sizes))
        return table.in_order(np.argsort(picture, kind="stable"), starts_of(per_picture))


def _ring_area(polygon: list[float]) -> float:
    """Return the area a ring encloses, in square pixels (shoelace formula)."""
    x, y = polygon[0::2], polygon[1::2]
    return abs(math.fsum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) / 2


def _box(bbox: Any) -> tuple[float, float, float, float] | None:
    """Return a bbox of four numbers; None where the annotation has none."""
    if not bbox:
        return None
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(value, int | float) for value in bbox):
        msg = f"its bbox {bbox!r} is not x, y, width, height"
        raise _BadError(msg)
    if not all(map(math.isfinite, bbox)):
        msg = "its bbox holds NaN or infinity"
        raise _BadError(msg)
    return float(bbox[0]), float(bbox[1]), float(bbox[2]), float(bbox[3])


def _counts(segmentation: dict[str, Any], size: list[int]) -> bytes:
    """Return the compressed counts of an RLE, compressed or plain, that fills its picture."""
    try:
        counts = rle.counts_of(segmentation["counts"])
        height, width = (int(value) for value in segmentation["size"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"its RLE cannot be read ({error})"
        raise _BadError(msg) from error
    if size[0] and [height, width] != size:
        msg = f"its RLE is of {height} x {width} pixels, its picture of {size[0]} x {size[1]}"
        raise _BadError(msg)
    if (counts < 0).any() or counts.sum() != height * width:
        msg = f"its RLE does not fill {height} x {width} pixels"
        raise _BadError(msg)
    if not counts[1::2].any():
        msg = "its RLE is empty"
        raise _BadError(msg)
    return rle.compress(counts)


def _box_of(xy: array[float], counts: bytes, size: list[int]) -> tuple[float, float, float, float] | None:
    """Return the box of polygons or of an RLE, for an annotation that has none."""
    if len(xy):
        x, y = xy[0::2], xy[1::2]
        return min(x), min(y), max(x) - min(x), max(y) - min(y)
    if counts and size[0]:
        bitmap, (left, top) = rle.to_bitmap(rle.counts_of(counts), size[0], size[1])
        return float(left), float(top), float(bitmap.shape[1]), float(bitmap.shape[0])
    return None
