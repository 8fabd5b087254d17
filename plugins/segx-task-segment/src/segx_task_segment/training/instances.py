"""Objects in augmentation: polygons while geometry changes, small bitmaps afterwards.

Rings are in continuous coordinates: the pixel in column i spans i..i+1. A ring list is filled by the even-odd
rule, so holes and several parts survive every transformation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Points = np.ndarray[Any, np.dtype[np.float32]]
_SHIFT = 4  # fractional bits of OpenCV's polygon filling


@dataclass(frozen=True, kw_only=True)
class Polygons:
    """N objects as rings of points.

    Attributes:
        classes: int64 (N,), class numbers.
        points: float32 (P, 2), x and y of all rings of all objects in pixels, one after the other.
        starts: int64 (R + 1,), where each ring begins in ``points``; the last entry is P.
        owners: int64 (R,), the object each ring belongs to, ascending; an object owns at least one ring.
        has_mask: bool (N,), False for an object known by its box only: its ring is that box.
    """

    classes: NDArray[np.int64]
    points: Points
    starts: NDArray[np.int64]
    owners: NDArray[np.int64]
    has_mask: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def empty(cls) -> Polygons:
        """Return no objects."""
        return cls.from_rings([], [])

    @classmethod
    def from_rings(
        cls, classes: Sequence[int], rings: Sequence[Sequence[Points]], has_mask: Sequence[bool] | None = None
    ) -> Polygons:
        """Return objects from a list of rings, (M, 2) each, for every object."""
        flat = [ring for each in rings for ring in each]
        return cls(
            classes=np.asarray(classes, dtype=np.int64),
            points=np.concatenate(flat).astype(np.float32) if flat else np.zeros((0, 2), np.float32),
            starts=np.concatenate([[0], np.cumsum([len(ring) for ring in flat])]).astype(np.int64),
            owners=np.repeat(np.arange(len(rings)), [len(each) for each in rings]).astype(np.int64),
            has_mask=np.ones(len(rings), bool) if has_mask is None else np.asarray(has_mask, dtype=bool),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(each.nbytes for each in (self.classes, self.points, self.starts, self.owners, self.has_mask))

    def transform(self, matrix: NDArray[np.float64]) -> Polygons:
        """Return the objects moved by a 3 x 3 matrix (x right, y down, homogeneous)."""
        homogeneous = self.points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
        moved = homogeneous[:, :2] / homogeneous[:, 2:]
        return replace(self, points=moved.astype(np.float32))

    def boxes(self) -> NDArray[np.float32]:
        """Return float32 (N, 4), x1 y1 x2 y2 of each object's points."""
        if not len(self):
            return np.zeros((0, 4), np.float32)
        firsts = self.starts[np.searchsorted(self.owners, np.arange(len(self)))]
        low = np.minimum.reduceat(self.points, firsts, axis=0)
        high = np.maximum.reduceat(self.points, firsts, axis=0)
        return np.concatenate([low, high], axis=1)

    def rings(self, index: int) -> list[Points]:
        """Return the rings of one object."""
        first, last = np.searchsorted(self.owners, [index, index + 1])
        return [self.points[self.starts[r] : self.starts[r + 1]] for r in range(first, last)]

    @staticmethod
    def concatenate(parts: Sequence[Polygons]) -> Polygons:
        """Return the objects of several lists as one list."""
        if not parts:
            return Polygons.empty()
        counts = np.cumsum([0, *(len(part) for part in parts)])
        sizes = np.cumsum([0, *(len(part.points) for part in parts)])
        starts = [part.starts[:-1] + size for part, size in zip(parts, sizes, strict=False)]
        return Polygons(
            classes=np.concatenate([part.classes for part in parts]),
            points=np.concatenate([part.points for part in parts]),
            starts=np.concatenate([*starts, sizes[-1:]]).astype(np.int64),
            owners=np.concatenate([part.owners + count for part, count in zip(parts, counts, strict=False)]),
            has_mask=np.concatenate([part.has_mask for part in parts]),
        )


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One object in the image that is trained on.

    Attributes:
        category: Its class number.
        box: x1, y1, x2, y2 in pixels; the box of what is visible of it.
        left: First column of the bitmap.
        top: First row of the bitmap.
        bitmap: uint8 (h, w) of 0 and 1, the visible pixels inside the box.
        has_mask: False for an object known by its box only.
    """

    category: int
    box: tuple[float, float, float, float]
    left: int
    top: int
    bitmap: NDArray[np.uint8]
    has_mask: bool = True

    @property
    def area(self) -> int:
        """Number of visible pixels."""
        return int(np.count_nonzero(self.bitmap))

    def minus(self, other: Instance) -> Instance | None:
        """Return what is left of this object behind another one; None when nothing is."""
        window = _overlap(self, other)
        if window is None:
            return self
        mine, theirs = window
        if not np.any(self.bitmap[mine] & other.bitmap[theirs]):
            return self
        visible = self.bitmap.copy()
        visible[mine] &= 1 - other.bitmap[theirs]
        return from_bitmap(visible, self.left, self.top, self.category, has_mask=self.has_mask)

    def overlap_with(self, other: Instance) -> float:
        """Return the fraction of this object's pixels that another one covers."""
        window = _overlap(self, other)
        if window is None:
            return 0.0
        mine, theirs = window
        return float(np.count_nonzero(self.bitmap[mine] & other.bitmap[theirs])) / max(self.area, 1)

    def flipped(self, width: int) -> Instance:
        """Return the object in the image of this width, mirrored left to right."""
        x1, y1, x2, y2 = self.box
        bitmap = np.ascontiguousarray(self.bitmap[:, ::-1])
        left = width - self.left - self.bitmap.shape[1]
        return replace(self, box=(width - x2, y1, width - x1, y2), left=left, bitmap=bitmap)


def from_bitmap(
    bitmap: NDArray[np.uint8], left: int, top: int, category: int, *, has_mask: bool = True
) -> Instance | None:
    """Return an object cut to its visible pixels, its box their outer edges; None when there are none."""
    x, y, width, height = cv2.boundingRect(bitmap)
    if not width or not height:
        return None
    cut = np.ascontiguousarray(bitmap[y : y + height, x : x + width])
    box = (float(left + x), float(top + y), float(left + x + width), float(top + y + height))
    return Instance(category=category, box=box, left=left + x, top=top + y, bitmap=cut, has_mask=has_mask)


def place(shapes: Polygons, size: tuple[int, int]) -> list[Instance | None]:
    """Draw each object into an image of this (height, width); None for one that is not in it.

    The box of an object inside the image keeps its sub-pixel edges; that of one cut by the border is the box of
    the part inside.
    """
    return [_place_one(shapes, index, box, size) for index, box in enumerate(shapes.boxes().tolist())]


def _place_one(shapes: Polygons, index: int, box: list[float], size: tuple[int, int]) -> Instance | None:
    height, width = size
    x1, y1, x2, y2 = box
    left, top = max(int(np.floor(x1)), 0), max(int(np.floor(y1)), 0)
    right, bottom = min(int(np.ceil(x2)), width), min(int(np.ceil(y2)), height)
    if right <= left or bottom <= top:
        return None
    bitmap = fill(shapes.rings(index), left, top, right - left, bottom - top)
    has_mask = bool(shapes.has_mask[index])
    category = int(shapes.classes[index])
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        return from_bitmap(bitmap, left, top, category, has_mask=has_mask)
    if not bitmap.any():
        return None
    return Instance(category=category, box=(x1, y1, x2, y2), left=left, top=top, bitmap=bitmap, has_mask=has_mask)


def fill(rings: Sequence[Points], left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return uint8 (height, width) of 0 and 1: the pixels of a window whose centres the rings enclose, even-odd.

    OpenCV also sets the pixels its lines pass through, up to half a pixel outside; drawing at four times the size
    and averaging keeps that to an eighth.
    """
    scale = 4 if max(width, height) <= 64 else 2
    offset = np.array([left, top], np.float32)
    fixed = [
        np.rint(((ring - offset) * scale - 0.5) * (1 << _SHIFT)).astype(np.int32).reshape(-1, 1, 2) for ring in rings
    ]
    canvas = np.zeros((height * scale, width * scale), np.uint8)
    cv2.fillPoly(canvas, fixed, color=(255,), lineType=cv2.LINE_8, shift=_SHIFT)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    bitmap: NDArray[np.uint8] = (small >= 128).view(np.uint8)
    return bitmap


def union(rings: Sequence[Points], size: tuple[int, int]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return the pixels that any of some rings encloses, as the bitmap of their common box, and its offset (x, y).

    Args:
        rings: Each filled by itself: where two overlap, both hold.
        size: (height, width) of the image; what lies outside is cut off.
    """
    low = np.maximum(np.floor(np.min([ring.min(0) for ring in rings], axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(np.max([ring.max(0) for ring in rings], axis=0)), size[::-1]).astype(int)
    (left, top), (width, height) = low.tolist(), np.maximum(high - low, 0).tolist()
    bitmap = np.zeros((height, width), np.uint8)
    for item in place(Polygons.from_rings([0] * len(rings), [[ring] for ring in rings]), size):
        if item is not None:
            rows, columns = item.bitmap.shape
            window = bitmap[item.top - top : item.top - top + rows, item.left - left : item.left - left + columns]
            np.maximum(window, item.bitmap, out=window)
    return bitmap, (left, top)


def trace(bitmap: NDArray[np.uint8], left: int, top: int) -> list[Points]:
    """Return the rings, in continuous coordinates, that enclose the pixels of a bitmap, holes included.

    Contours run through the centres of border pixels; doubling the bitmap first moves them to within a quarter of a
    pixel of the true edge, and :func:`fill` gives the same pixels back.
    """
    doubled = cv2.resize(bitmap, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_TC89_L1)
    offset = np.array([left, top], np.float32)
    return [np.float32(0.5) * (contour[:, 0] + np.float32(0.5)) + offset for contour in contours if len(contour) >= 3]


def _overlap(one: Instance, other: Instance) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    left, top = max(one.left, other.left), max(one.top, other.top)
    right = min(one.left + one.bitmap.shape[1], other.left + other.bitmap.shape[1])
    bottom = min(one.top + one.bitmap.shape[0], other.top + other.bitmap.shape[0])
    if right <= left or bottom <= top:
        return None

    def window(item: Instance) -> tuple[slice, slice]:
        return slice(top - item.top, bottom - item.top), slice(left - item.left, right - item.left)

    return window(one), window(other)
