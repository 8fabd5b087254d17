"""Checks COCO annotations one by one and collects those that hold as columns."""

from __future__ import annotations

import math
import reprlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from segx import rle
from segx.truths import TruthTable, starts_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_FEWEST_NUMBERS = 6
"""Three points."""
_FURTHEST = 1e9
"""Coordinates and sides beyond this, in pixels, are no picture's."""
MOST_PIXELS = 1 << 31
"""A picture with more could not be read."""
_NUMBERS = frozenset({int, float})
_IDS = range(-(1 << 63), 1 << 63)


class _BadError(ValueError):
    """Why an annotation, or a part of one, is left out."""


@dataclass(frozen=True, kw_only=True)
class _Object:
    """One annotation, checked, every value as it is kept."""

    picture: int
    category: int
    crowd: bool
    area: float
    number: int
    box: tuple[float, float, float, float]
    parts: Sequence[array[float]]
    counts: bytes


class AnnotationColumns:
    """Annotations as columns.

    Args:
        pictures: Id to position of each picture.
        categories: Id to position of each category.
        sizes: int32 (pictures, 2), height and width; 0 where unknown.

    Attributes:
        problems: What was left out: the annotation and the reason.
        notes: What was kept otherwise than it is written: the annotation and how.
        texts: How many ids are written as text.
    """

    def __init__(
        self,
        *,
        pictures: Mapping[int | str, int],
        categories: Mapping[int, int],
        sizes: NDArray[np.int32],
    ) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.texts = 0
        self._pictures, self._categories = pictures, categories
        self._sizes = sizes.tolist()
        self._seen: set[int] = set()
        self._picture, self._category, self._crowd = array("q"), array("i"), array("b")
        self._area, self._id, self._box = array("d"), array("q"), array("d")
        self._parts, self._points, self._xy = array("q"), array("q"), array("d")
        self._runs, self._counts = array("q"), bytearray()

    def add(self, annotation: Any, position: int) -> None:
        """Take one annotation, or name what is wrong with it."""
        number = annotation.get("id", position) if isinstance(annotation, dict) else position
        if isinstance(number, str):
            self.texts += 1
            whole = number_in(number)
            number = -position if whole is None else whole
        called = f"annotation {number}" if is_id(number) and number >= 0 else f"annotation no. {position}"
        before = len(self.notes)
        try:
            self._append(self._checked(annotation, number, called))
        except _BadError as reason:
            self.problems += [*self.notes[before:], f"{called}: {reason}"]
            del self.notes[before:]

    def _checked(self, annotation: Any, number: Any, called: str) -> _Object:
        """Return an annotation with every value checked and converted; nothing is kept before all of it holds."""
        if not isinstance(annotation, dict):
            msg = "is not a mapping"
            raise _BadError(msg)
        if not is_id(number) or number in self._seen:
            msg = (
                "its id is there twice" if is_id(number) else f"its id {shown(number)} is not a whole number of 64 bits"
            )
            raise _BadError(msg)
        picture = self._position(self._pictures, annotation, "image_id", "image", "images")
        category = self._position(self._categories, annotation, "category_id", "category", "categories")
        box = _box(annotation.get("bbox"))
        segmentation = annotation.get("segmentation") or []
        parts: Sequence[array[float]] = ()
        counts, frame = b"", (0, 0)
        if isinstance(segmentation, dict):
            counts, frame = _counts(segmentation, self._sizes[picture])
        elif isinstance(segmentation, list):
            parts = self._polygons(segmentation, called)
        else:
            msg = f"its segmentation is a {type(segmentation).__name__}"
            raise _BadError(msg)
        if box is None:
            box = _box_of(parts, counts, frame)
        if box is None or box[2] <= 0 or box[3] <= 0:
            msg = "has no bbox, polygon or RLE that holds" if box is None else "its box is empty"
            raise _BadError(msg)
        return _Object(
            picture=picture,
            category=category,
            crowd=_crowd(annotation.get("iscrowd")),
            area=self._area_of(annotation.get("area"), called),
            number=number,
            box=box,
            parts=parts,
            counts=counts,
        )

    def _append(self, item: _Object) -> None:
        self._seen.add(item.number)
        self._picture.append(item.picture)
        self._category.append(item.category)
        self._crowd.append(item.crowd)
        self._area.append(item.area)
        self._id.append(item.number)
        self._box.extend(item.box)
        self._parts.append(len(item.parts))
        for part in item.parts:
            self._points.append(len(part) // 2)
            self._xy.extend(part)
        self._runs.append(len(item.counts))
        self._counts += item.counts

    def _polygons(self, polygons: list[Any], called: str) -> list[array[float]]:
        """Return the parts that hold, and name the others."""
        if type(polygons[0] if polygons else None) in _NUMBERS:
            polygons = [polygons]
        taken, area = [], 0.0
        for part, polygon in enumerate(polygons, start=1):
            try:
                taken.append(_polygon(polygon))
                area += _ring_area(taken[-1])
            except _BadError as reason:
                self.notes.append(f"{called}: part {part}: {reason}; the part is left out")
        if taken and area == 0:
            msg = "its polygon has no area"
            raise _BadError(msg)
        return taken

    def _area_of(self, area: Any, called: str) -> float:
        """Return a stated area; NaN, which has it measured, where none is stated or it cannot be one."""
        if area is None:
            return math.nan
        if type(area) in _NUMBERS and 0 <= area <= _FURTHEST**2:
            return float(area)
        self.notes.append(f"{called}: its area {shown(area)} cannot be one: it is measured instead")
        return math.nan

    def _position(self, known: Mapping[Any, int], annotation: dict[str, Any], key: str, what: str, those: str) -> int:
        """Return the position of the picture or the category that an annotation names, as a number or as text."""
        value = annotation.get(key)
        position = known.get(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        if position is None and (is_id(value) or isinstance(value, str)):
            position = known.get(number_in(value) if isinstance(value, str) else str(value))
            self.texts += position is not None
        if position is None:
            msg = f"{what} {shown(value)} is not among the {those}"
            raise _BadError(msg)
        return position

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


def shown(value: Any) -> str:
    """Return a value of a JSON for one line of text."""
    return reprlib.repr(value)


def number_in(text: str) -> int | None:
    """Return the whole number of 64 bits that a text is, written as any program writes it, or None."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20) or str(int(text)) != text:
        return None
    return int(text) if int(text) in _IDS else None


def is_id(value: Any) -> TypeGuard[int]:
    """Say whether a value is a whole number of 64 bits."""
    return type(value) is int and value in _IDS


def _crowd(value: Any) -> bool:
    if value is not None and not (isinstance(value, int | float) and value in {0, 1}):
        msg = f"its iscrowd {shown(value)} is neither 0 nor 1"
        raise _BadError(msg)
    return bool(value)


def _polygon(polygon: Any) -> array[float]:
    """Return x1, y1, x2, y2, ... of one part."""
    if not isinstance(polygon, list) or len(polygon) < _FEWEST_NUMBERS or len(polygon) % 2:
        length = len(polygon) if isinstance(polygon, list) else 0
        msg = f"{length} numbers are no polygon: it takes three points or more"
        raise _BadError(msg)
    if not _NUMBERS.issuperset(map(type, polygon)):
        msg = "holds something that is no number"
        raise _BadError(msg)
    _check_range(polygon)
    return array("d", polygon)


def _check_range(values: Sequence[float]) -> None:
    """Refuse what is not finite, and what is so far out that areas would not be."""
    if not all(-_FURTHEST <= value <= _FURTHEST for value in values):
        far = all(isinstance(value, int) or math.isfinite(value) for value in values)
        msg = "holds a number that is in no picture" if far else "holds NaN or infinity"
        raise _BadError(msg)


def _ring_area(polygon: Sequence[float]) -> float:
    """Return the area a ring encloses, in square pixels (shoelace formula)."""
    x, y = polygon[0::2], polygon[1::2]
    return abs(math.fsum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) / 2


def _box(bbox: Any) -> tuple[float, float, float, float] | None:
    """Return a bbox of four numbers; None where the annotation has none."""
    if bbox is None or bbox == []:
        return None
    if not isinstance(bbox, list) or len(bbox) != 4 or not _NUMBERS.issuperset(map(type, bbox)):
        msg = f"its bbox {shown(bbox)} is not x, y, width, height"
        raise _BadError(msg)
    try:
        _check_range(bbox)
    except _BadError as reason:
        msg = f"its bbox {reason}"
        raise _BadError(msg) from None
    return float(bbox[0]), float(bbox[1]), float(bbox[2]), float(bbox[3])


def _counts(segmentation: dict[str, Any], size: list[int]) -> tuple[bytes, tuple[int, int]]:
    """Return the compressed counts of an RLE, compressed or plain, that fills its picture; its height and width."""
    for part in ("counts", "size"):
        if part not in segmentation:
            msg = f"its RLE has no {part}"
            raise _BadError(msg)
    height, width = _frame(segmentation["size"])
    try:
        counts = rle.counts_of(_run_lengths(segmentation["counts"]))
    except OverflowError as error:
        msg = "its RLE has a run longer than any picture"
        raise _BadError(msg) from error
    except ValueError as error:
        msg = f"its RLE cannot be read ({error})"
        raise _BadError(msg) from error
    if size[0] and [height, width] != size:
        msg = f"its RLE is of {height} x {width} pixels, its picture of {size[0]} x {size[1]}"
        raise _BadError(msg)
    whole = height * width
    if (
        min(height, width) < 1
        or whole > MOST_PIXELS
        or ((counts < 0) | (counts > whole)).any()
        or counts.sum() != whole
    ):
        msg = f"its RLE does not fill {height} x {width} pixels"
        raise _BadError(msg)
    if not counts[1::2].any():
        msg = "its RLE is empty"
        raise _BadError(msg)
    return rle.compress(counts), (height, width)


def _frame(size: Any) -> tuple[int, int]:
    """Return the height and width that an RLE states."""
    try:
        height, width = (int(value) for value in size)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"its RLE has the size {shown(size)}, not a height and a width"
        raise _BadError(msg) from error
    return height, width


def _run_lengths(counts: Any) -> Any:
    if isinstance(counts, str) and not counts.isascii():
        msg = "compressed run lengths are damaged"
        raise ValueError(msg)
    if isinstance(counts, str) or (isinstance(counts, list) and set(map(type, counts)) == {int}):
        return counts
    msg = f"counts are {shown(counts)}"
    raise ValueError(msg)


def _box_of(
    parts: Sequence[Sequence[float]], counts: bytes, frame: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Return the box of polygons or of an RLE, for an annotation that has none."""
    if parts:
        x = [value for part in parts for value in part[0::2]]
        y = [value for part in parts for value in part[1::2]]
        return min(x), min(y), max(x) - min(x), max(y) - min(y)
    if counts:
        bitmap, (left, top) = rle.to_bitmap(rle.counts_of(counts), *frame)
        return float(left), float(top), float(bitmap.shape[1]), float(bitmap.shape[0])
    return None
