"""Objects in augmentation: polygons while geometry changes, small bitmaps afterwards.

Rings are in continuous coordinates: the pixel in column i spans i..i+1. They are filled by the rule that measures, so
what is taught is what is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from segx.ops.bits import unpack
from segx.ops.polygons import Polygon, Rings, clip_rings, fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, kw_only=True)
class Polygons:
    """N objects as rings of points.

    Attributes:
        classes: int64 (N,), class numbers.
        rings: Their outlines, in pixels; an object has at least one.
        has_mask: bool (N,), False for an object known by its box only: its ring is that box.
    """

    classes: NDArray[np.int64]
    rings: Rings
    has_mask: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def of(
        cls,
        classes: Sequence[int],
        objects: Sequence[Sequence[Polygon | ArrayLike]],
        has_mask: Sequence[bool] | None = None,
    ) -> Polygons:
        """Return objects from a list of parts, :class:`~segx.ops.polygons.Polygon` or (M, 2), for every object."""
        return cls(
            classes=np.asarray(classes, dtype=np.int64),
            rings=Rings.of(objects),
            has_mask=np.ones(len(objects), bool) if has_mask is None else np.asarray(has_mask, dtype=bool),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(each.nbytes for each in (self.classes, *self.rings, self.has_mask))

    def transform(self, matrix: NDArray[np.float64]) -> Polygons:
        """Return the objects moved by a 3 x 3 matrix (x right, y down, homogeneous)."""
        homogeneous = self.rings.xy @ matrix[:, :2].T + matrix[:, 2]
        return replace(self, rings=self.rings._replace(xy=homogeneous[:, :2] / homogeneous[:, 2:]))

    def boxes(self) -> NDArray[np.float32]:
        """Return float32 (N, 4), x1 y1 x2 y2 of each object's points."""
        if not len(self):
            return np.zeros((0, 4), np.float32)
        xy, starts, parts, owners = self.rings
        firsts = starts[np.searchsorted(owners[parts], np.arange(len(self)))]
        low = np.minimum.reduceat(xy, firsts, axis=0)
        high = np.maximum.reduceat(xy, firsts, axis=0)
        return np.concatenate([low, high], axis=1).astype(np.float32)

    def clip(self, size: tuple[int, int]) -> Polygons:
        """Return the parts of objects inside an image of this (height, width), without the objects outside it."""
        height, width = size
        low, high = np.split(self.boxes(), 2, axis=1)
        inside = np.all((low >= 0) & (high <= (width, height)), axis=1)
        if inside.all():
            return self
        near = ~np.any((high <= 0) | (low >= (width, height)), axis=1)
        xy, starts, parts, owners = self.rings
        sizes = np.diff(starts)
        rings = np.flatnonzero(near[owners[parts]])
        points = np.repeat(near[owners[parts]], sizes)
        xy, starts, cut = clip_rings(xy[points], np.concatenate([[0], np.cumsum(sizes[rings])]), width, height)
        sizes, kept = np.diff(starts), rings[cut]
        whole = (sizes >= 3) | inside[owners[parts[kept]]]
        xy, sizes, kept = xy[np.repeat(whole, sizes)], sizes[whole], kept[whole]
        seen, renumbered = np.unique(parts[kept], return_inverse=True)
        objects, renamed = np.unique(owners[seen], return_inverse=True)
        return Polygons(
            classes=self.classes[objects],
            rings=Rings(xy, np.concatenate([[0], np.cumsum(sizes)]), renumbered, renamed),
            has_mask=self.has_mask[objects],
        )

    @staticmethod
    def concatenate(several: Sequence[Polygons]) -> Polygons:
        """Return the objects of several lists as one list."""

        def after(counts: Sequence[int], arrays: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
            return np.concatenate(
                [array + before for array, before in zip(arrays, np.cumsum([0, *counts]), strict=False)]
            )

        rings = [each.rings for each in several]
        sizes = [len(each.xy) for each in rings]
        return Polygons(
            classes=np.concatenate([each.classes for each in several]),
            rings=Rings(
                np.concatenate([each.xy for each in rings]),
                np.append(after(sizes, [each.starts[:-1] for each in rings]), sum(sizes)),
                after([len(each.owners) for each in rings], [each.parts for each in rings]),
                after([len(each) for each in several], [each.owners for each in rings]),
            ),
            has_mask=np.concatenate([each.has_mask for each in several]),
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
    drawn: list[Instance | None] = []
    height, width = size
    filled = fill(shapes.rings, len(shapes), size)
    of_objects = zip(filled, shapes.boxes().tolist(), shapes.classes.tolist(), shapes.has_mask.tolist(), strict=True)
    for (bits, (left, top, right, _)), (x1, y1, x2, y2), category, has_mask in of_objects:
        bitmap = unpack(bits, right - left).view(np.uint8)
        if not bitmap.any():
            drawn.append(None)
        elif x1 < 0 or y1 < 0 or x2 > width or y2 > height:
            drawn.append(from_bitmap(bitmap, left, top, category, has_mask=has_mask))
        else:
            box = (x1, y1, x2, y2)
            drawn.append(Instance(category=category, box=box, left=left, top=top, bitmap=bitmap, has_mask=has_mask))
    return drawn


def _overlap(one: Instance, other: Instance) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    left, top = max(one.left, other.left), max(one.top, other.top)
    right = min(one.left + one.bitmap.shape[1], other.left + other.bitmap.shape[1])
    bottom = min(one.top + one.bitmap.shape[0], other.top + other.bitmap.shape[0])
    if right <= left or bottom <= top:
        return None

    def window(item: Instance) -> tuple[slice, slice]:
        return slice(top - item.top, bottom - item.top), slice(left - item.left, right - item.left)

    return window(one), window(other)
