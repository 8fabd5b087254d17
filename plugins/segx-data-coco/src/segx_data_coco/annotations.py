"""Checks COCO annotations one by one and collects those that hold as columns."""

from __future__ import annotations

import contextlib
import math
import reprlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from segx.ops.polygons import encloses
from segx.structures import rle
from segx.structures.annotations import AnnotationTable, starts_of
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_FEWEST_NUMBERS = 6
"""Three points."""
_FURTHEST = 1e9
"""Coordinates and sides beyond this, in pixels, are no image's."""
MAX_PIXELS = 1 << 31
"""An image with more could not be read."""
_NUMBERS = frozenset({int, float})
_ANNOTATIONS = {"0": 0, "1": 1, "false": 0, "true": 1}
_ROUNDED = 3.0
"""Pixels that the edges of a box may lie beside those of its outline, whatever its size."""
_AGREE = 0.5
"""IoU with the box of the outline below which a stated box is another one's."""
_IDS = range(-(1 << 63), 1 << 63)


class _BadError(ValueError):
    """Why an annotation, or a part of one, is left out."""


@dataclass(frozen=True, kw_only=True)
class _Object:
    """One annotation, checked, every value as it is kept."""

    image: int
    category: int
    crowd: bool
    area: float
    box: tuple[float, float, float, float]
    parts: Sequence[array[float]]
    counts: bytes


class AnnotationColumns:
    """Annotations as columns.

    Args:
        images: Id to position of each image.
        categories: Id to position of each category.
        sizes: int32 (images, 2), height and width; 0 where unknown.

    Attributes:
        problems: What was left out: the annotation and the reason.
        notes: What was kept otherwise than it is written: the annotation and how.
        texts: How many ids are written as text.
        fractions: How many are written as fractions that are whole.
    """

    def __init__(
        self,
        *,
        images: Mapping[int | str, int],
        categories: Mapping[int, int],
        sizes: NDArray[np.int32],
    ) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.texts = self.fractions = 0
        self._images, self._categories = images, categories
        self._sizes = sizes.tolist()
        self._seen: set[int] = set()
        self._unnumbered: list[int] = []
        self._image, self._category, self._crowd = array("q"), array("i"), array("b")
        self._area, self._id, self._box = array("d"), array("q"), array("d")
        self._parts, self._points, self._xy = array("q"), array("q"), array("d")
        self._runs, self._counts = array("q"), bytearray()

    def add(self, annotation: Any, position: int) -> None:
        """Take one annotation, or name what is wrong with it."""
        number = self._number(annotation, position)
        called = f"annotation no. {position}" if number is None or number < 0 else f"annotation {number}"
        before = len(self.notes)
        try:
            self._append(self._checked(annotation, called), number)
        except _BadError as reason:
            self.problems += [*self.notes[before:], f"{called}: {reason}"]
            del self.notes[before:]

    def _number(self, annotation: Any, position: int) -> int | None:
        """Return the id of an annotation, or None where it has none of its own: no mask depends on it."""
        number = annotation.get("id") if isinstance(annotation, dict) else None
        if isinstance(number, str):
            self.texts += 1
            whole = number_in(number)
            return -position if whole is None else whole
        if isinstance(number, float) and number.is_integer():
            self.fractions += 1
            number = int(number)
        return number if is_id(number) else None

    def _checked(self, annotation: Any, called: str) -> _Object:
        """Return an annotation with every value checked and converted; nothing is kept before all of it holds.

        The outline and the class decide: whatever else is wrong is derived from them, and noted.
        """
        if not isinstance(annotation, dict):
            raise _BadError("is not a mapping")
        image = self._position(self._images, annotation, "image_id", "image", "images")
        category = self._position(self._categories, annotation, "category_id", "category", "categories")
        segmentation = annotation.get("segmentation") or []
        if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], dict):
            (segmentation,) = segmentation  # an RLE in a list
        parts: Sequence[array[float]] = ()
        counts, frame = b"", (0, 0)
        if isinstance(segmentation, dict):
            counts, frame, rounded = _counts(segmentation, self._sizes[image])
            if rounded:
                self.notes.append(f"{called}: its run lengths are fractions: read as whole numbers")
        elif isinstance(segmentation, list):
            parts = self._polygons(segmentation, called)
        else:
            raise _BadError(f"its segmentation is a {type(segmentation).__name__}")
        return _Object(
            image=image,
            category=category,
            crowd=self._crowd_of(annotation.get("iscrowd"), called),
            area=self._area_of(annotation.get("area"), called, outlined=bool(parts or counts)),
            box=self._box_of(annotation.get("bbox"), _box_around(parts, counts, frame), self._sizes[image], called),
            parts=parts,
            counts=counts,
        )

    def _append(self, item: _Object, number: int | None) -> None:
        if number is None or number in self._seen:
            self._unnumbered.append(len(self._id))
            number = 0
        else:
            self._seen.add(number)
        self._image.append(item.image)
        self._category.append(item.category)
        self._crowd.append(item.crowd)
        self._area.append(item.area)
        self._id.append(number)
        self._box.extend(item.box)
        self._parts.append(len(item.parts))
        for part in item.parts:
            self._points.append(len(part) // 2)
            self._xy.extend(part)
        self._runs.append(len(item.counts))
        self._counts += item.counts

    def _polygons(self, polygons: list[Any], called: str) -> list[array[float]]:
        """Return the parts that hold, and name the others."""
        polygons, paired = _rings(polygons)
        if paired:
            self.notes.append(f"{called}: its outline is written as pairs: read as x, y of each point")
        taken = []
        for part, polygon in enumerate(polygons, start=1):
            try:
                taken.append(_polygon(polygon))
            except _BadError as reason:
                self.notes.append(f"{called}: part {part}: {reason}; the part is left out")
        if taken and not any(_turns(part) or encloses(np.array(part).reshape(-1, 2)) for part in taken):
            raise _BadError("its polygon has no area")
        return taken

    def _area_of(self, area: Any, called: str, *, outlined: bool) -> float:
        """Return a stated area; NaN, which has it measured, where none is stated or it cannot be one."""
        if area is None:
            return math.nan
        if type(area) in _NUMBERS and 0 <= area <= _FURTHEST**2 and (area or not outlined):
            return float(area)
        self.notes.append(f"{called}: its area {shown(area)} cannot be one: it is measured instead")
        return math.nan

    def _crowd_of(self, value: Any, called: str) -> bool:
        if value is None or (isinstance(value, int | float) and value in {0, 1}):
            return bool(value)
        if isinstance(value, str) and value.strip().lower() in _ANNOTATIONS:
            self.notes.append(
                f"{called}: its iscrowd {shown(value)} is text: read as {_ANNOTATIONS[value.strip().lower()]}"
            )
            return bool(_ANNOTATIONS[value.strip().lower()])
        self.notes.append(f"{called}: its iscrowd {shown(value)} is neither 0 nor 1: taken for 0")
        return False

    def _box_of(
        self, bbox: Any, outline: tuple[float, float, float, float] | None, size: list[int], called: str
    ) -> tuple[float, float, float, float]:
        """Return the box that is stated; that of the outline where none is, or one that cannot be the outline's."""
        try:
            box = _stated_box(bbox)
        except _BadError as reason:
            if outline is None:
                raise
            self.notes.append(f"{called}: {reason}: that of the outline is taken instead")
            return outline
        if box is None and outline is None:
            raise _BadError("has no bbox, polygon or RLE that holds")
        if box is None or outline is None:
            x, y, width, height = box or outline or (0, 0, 0, 0)
            if width < 0 or height < 0:
                self.notes.append(f"{called}: its bbox has negative sides: taken the other way round")
                return min(x, x + width), min(y, y + height), abs(width), abs(height)
            return x, y, width, height
        if not _agree(box, outline, size):
            self.notes.append(f"{called}: its bbox {shown(bbox)} is not that of its outline, which is taken instead")
            return outline
        return box

    def _position(self, known: Mapping[Any, int], annotation: dict[str, Any], key: str, what: str, those: str) -> int:
        """Return the position of the image or the category that an annotation names, as a number or as text."""
        value = annotation.get(key)
        position = known.get(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        if position is None and (is_id(value) or isinstance(value, str)):
            position = known.get(number_in(value) if isinstance(value, str) else str(value))
            self.texts += position is not None
        if position is None:
            raise _BadError(f"{what} {shown(value)} is not among the {those}")
        return position

    def _numbered(self) -> NDArray[np.int64]:
        """Return the ids; those that are missing or there twice are given anew, above all others."""
        if self.fractions:
            self.notes.append(f"{counted(self.fractions, 'annotation id')} written as fractions: read as whole numbers")
        number = np.array(self._id, np.int64)
        if self._unnumbered:
            what = f"{counted(len(self._unnumbered), 'annotation')} without an id, or with one that is there twice"
            self.notes.append(f"{what}: numbered anew")
            top = min(max(self._seen, default=0), _IDS.stop - 1 - len(self._unnumbered))
            number[self._unnumbered] = top + 1 + np.arange(len(self._unnumbered))
        return number

    def table(self) -> AnnotationTable:
        """Return the annotations taken, grouped by image, in the order they came."""
        image = np.array(self._image, np.int64)
        table = AnnotationTable(
            offsets=np.array([0, len(image)], np.int64),
            category=np.array(self._category, np.int32),
            crowd=np.array(self._crowd, np.bool_),
            area=np.array(self._area, np.float64),
            id=self._numbered(),
            box=np.array(self._box, np.float64).reshape(-1, 4),
            parts=starts_of(np.array(self._parts, np.int64)),
            points=starts_of(np.array(self._points, np.int64)),
            xy=np.array(self._xy, np.float64).reshape(-1, 2),
            runs=starts_of(np.array(self._runs, np.int64)),
            counts=np.frombuffer(bytes(self._counts), np.uint8),
        )
        per_image = np.bincount(image, minlength=len(self._sizes))
        return table.in_order(np.argsort(image, kind="stable"), starts_of(per_image))


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
    """Return True if a value is a whole number of 64 bits."""
    return type(value) is int and value in _IDS


def _rings(polygons: list[Any]) -> tuple[list[Any], bool]:
    """Return an outline as a list of x1, y1, x2, y2, ..., and whether it is written in pairs of numbers."""
    if type(polygons[0] if polygons else None) in _NUMBERS:
        return [polygons], False
    if _is_pairs(polygons):
        return [[value for pair in polygons for value in pair]], True
    paired = [_is_pairs(ring) for ring in polygons]
    rings = [
        [value for pair in ring for value in pair] if pairs else ring
        for ring, pairs in zip(polygons, paired, strict=True)
    ]
    return rings, any(paired)


def _is_pairs(ring: Any) -> bool:
    """Return True if a ring is three pairs of numbers or more."""
    return (
        isinstance(ring, list)
        and len(ring) > _FEWEST_NUMBERS // 2 - 1
        and all(isinstance(pair, list) and len(pair) == 2 and _NUMBERS.issuperset(map(type, pair)) for pair in ring)
    )


def _polygon(polygon: Any) -> array[float]:
    """Return x1, y1, x2, y2, ... of one part."""
    if not isinstance(polygon, list) or len(polygon) < _FEWEST_NUMBERS or len(polygon) % 2:
        length = len(polygon) if isinstance(polygon, list) else 0
        raise _BadError(f"{length} numbers are no polygon: it takes three points or more")
    if not _NUMBERS.issuperset(map(type, polygon)):
        raise _BadError("holds something that is no number")
    _check_range(polygon)
    return array("d", polygon)


def _check_range(values: Sequence[float]) -> None:
    """Refuse what is not finite, and what is so far out that areas would not be."""
    if not all(-_FURTHEST <= value <= _FURTHEST for value in values):
        far = all(isinstance(value, int) or math.isfinite(value) for value in values)
        msg = "holds a number that is in no image" if far else "holds NaN or infinity"
        raise _BadError(msg)


def _turns(polygon: Sequence[float]) -> bool:
    """Say quickly of nearly all that enclose anything that they do: the shoelace formula gives an area."""
    x, y = polygon[0::2], polygon[1::2]
    twice = abs(math.fsum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x))))
    return twice > 1e-6 * (max(x) - min(x)) * (max(y) - min(y))  # else it may be what rounding leaves of a line


def _stated_box(bbox: Any) -> tuple[float, float, float, float] | None:
    """Return a bbox of four numbers, with sides that may run the other way; None where the annotation has none."""
    if bbox is None or bbox == []:
        return None
    values = [_plain_number(value) for value in bbox] if isinstance(bbox, list) and len(bbox) == 4 else [None]
    if None in values:
        raise _BadError(f"its bbox {shown(bbox)} is not x, y, width, height")
    x, y, width, height = (value for value in values if value is not None)
    try:
        _check_range((x, y, width, height))
    except _BadError as reason:
        raise _BadError(f"its bbox {reason}") from None
    if not width or not height:
        raise _BadError("its box is empty")
    return float(x), float(y), float(width), float(height)


def _plain_number(value: Any) -> float | None:
    """Return a number, also one written as text."""
    if type(value) in _NUMBERS:
        return value  # type: ignore[no-any-return]  # an int may be too large for a float
    if isinstance(value, str) and value.isascii() and "_" not in value:
        with contextlib.suppress(ValueError):
            return float(value)
    return None


def _agree(box: tuple[float, float, float, float], outline: tuple[float, float, float, float], size: list[int]) -> bool:
    """Return True if a stated box may be that of an outline, as far as tools round and cut at the image's edges."""
    one, other = _edges(box), _edges(outline)
    if size[0]:
        limits = (size[1], size[0]) * 2
        other = tuple(min(max(edge, 0.0), limit) for edge, limit in zip(other, limits, strict=True))
    if max(abs(a - b) for a, b in zip(one, other, strict=True)) <= _ROUNDED:
        return True
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    both = max(width, 0.0) * max(height, 0.0)
    sides = [(edges[2] - edges[0]) * (edges[3] - edges[1]) for edges in (one, other)]
    return box[2] > 0 and box[3] > 0 and both >= _AGREE * (sum(sides) - both)


def _edges(box: tuple[float, float, float, float]) -> tuple[float, ...]:
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


def _counts(segmentation: dict[str, Any], size: list[int]) -> tuple[bytes, tuple[int, int], bool]:
    """Return the compressed counts of an RLE, compressed or plain, that fills its image; its height and width.

    The last says whether its run lengths are written as fractions.
    """
    for part in ("counts", "size"):
        if part not in segmentation:
            raise _BadError(f"its RLE has no {part}")
    height, width = _frame(segmentation["size"])
    try:
        runs = _run_lengths(segmentation["counts"])
        counts = rle.counts_of(runs)
    except OverflowError as error:
        raise _BadError("its RLE has a run longer than any image") from error
    except ValueError as error:
        raise _BadError(f"its RLE cannot be read ({error})") from error
    if size[0] and [height, width] != size:
        raise _BadError(f"its RLE is of {height} x {width} pixels, its image of {size[0]} x {size[1]}")
    whole = height * width
    if min(height, width) < 1 or whole > MAX_PIXELS or ((counts < 0) | (counts > whole)).any() or counts.sum() != whole:
        raise _BadError(f"its RLE does not fill {height} x {width} pixels")
    if not counts[1::2].any():
        raise _BadError("its RLE is empty")
    return rle.compress(counts), (height, width), runs is not segmentation["counts"]


def _frame(size: Any) -> tuple[int, int]:
    """Return the height and width that an RLE states."""
    try:
        height, width = (int(value) for value in size)
    except (TypeError, ValueError, OverflowError) as error:
        raise _BadError(f"its RLE has the size {shown(size)}, not a height and a width") from error
    return height, width


def _run_lengths(counts: Any) -> Any:
    if isinstance(counts, str) and not counts.isascii():
        raise ValueError("compressed run lengths are damaged")
    if isinstance(counts, str) or (isinstance(counts, list) and set(map(type, counts)) == {int}):
        return counts
    if isinstance(counts, list) and all(
        type(run) is int or (isinstance(run, float) and run.is_integer()) for run in counts
    ):
        return [int(run) for run in counts]
    raise ValueError(f"counts are {shown(counts)}")


def _box_around(
    parts: Sequence[Sequence[float]], counts: bytes, frame: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Return the box of polygons or of an RLE; None where there is neither."""
    if parts:
        x = [value for part in parts for value in part[0::2]]
        y = [value for part in parts for value in part[1::2]]
        return min(x), min(y), max(x) - min(x), max(y) - min(y)
    if counts:
        return rle.box(rle.counts_of(counts), frame[0])
    return None
