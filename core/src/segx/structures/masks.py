"""``Masks``: per object an offset and a small bitmap, so that no N x H x W block ever exists unless asked for.

Bitmaps are held at one bit per pixel. Everything else (dense arrays, polygons, COCO RLE, areas, overlaps) is a view
that is made when asked for, inside each object's own rectangle.

Two conventions for coordinates meet here. Rectangles, boxes and ``polygons`` are continuous: pixel ``i`` covers
``i .. i + 1`` and its centre is at ``i + 0.5``, as in COCO. ``xy`` numbers pixels: a pixel's centre is at ``i``, as
OpenCV draws.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

import cv2
import numpy as np

from segx.ops.arrays import to_numpy
from segx.ops.bits import WORD, pack, unpack, words_per_row
from segx.ops.boxes import intersection, over_union
from segx.ops.polygons import Polygon, Rings, fill, trace
from segx.structures import rle as rle_codec
from segx.structures.arrays import OnHost, ResultArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

_POPCOUNT = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint8)


class RLE(TypedDict):
    """A mask as COCO writes it: frame size (height, width) and compressed run lengths, column by column."""

    size: list[int]
    counts: bytes


@dataclass(frozen=True, eq=False, init=False)
class Masks(OnHost):
    """The masks of the objects in one image.

    An empty result is an empty ``Masks``, never None. Made by a task, or by :meth:`from_dense`, :meth:`from_rle`,
    :meth:`from_polygons` and :meth:`empty`; ``Masks(data, orig_shape)`` is :meth:`from_dense`. One row may come without
    its axis of one.

    Attributes:
        frame: (height, width) in pixels of the frame that the masks lie in.
        rects: int32 (N, 4), the rectangle x0, y0, x1, y1 of each bitmap in the frame; x1 and y1 are exclusive.
        words: For each object its bitmap, one bit per pixel: (height, width // 64 + 1) of :data:`WORD`, lowest bit
            leftmost, bits beyond the width zero.
        orig_shape: (height, width) of the image; differs from ``frame`` for masks in the network's input.
        image: Where the image lies in the frame: left, top, width, height.
    """

    frame: tuple[int, int]
    rects: NDArray[np.int32]
    words: tuple[NDArray[np.uint64], ...]
    orig_shape: tuple[int, int]
    image: tuple[int, int, int, int]

    def __init__(self, data: ArrayLike | None = None, orig_shape: tuple[int, int] | None = None, **parts: Any) -> None:
        if data is not None:
            dense = np.asarray(to_numpy(data))
            made = Masks.from_dense(dense[None] if dense.ndim == 2 else dense, orig_shape)
            if parts:
                raise TypeError(f"masks are made of an array or of parts: not of both, as of {', '.join(parts)}")
            parts = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
        elif orig_shape is not None:
            parts["orig_shape"] = orig_shape
        names = [field.name for field in dataclasses.fields(self)]
        if parts.keys() != set(names):
            raise TypeError(f"masks are made of an array (N, H, W), or of {', '.join(names)}")
        for name in names:
            object.__setattr__(self, name, parts[name])
        self._check()

    def _check(self) -> None:
        if self.rects.shape != (len(self.words), 4):
            msg = f"{len(self.words)} bitmaps need rects of shape ({len(self.words)}, 4), not {self.rects.shape}"
            raise ValueError(msg)
        height, width = self.frame
        x0, y0, x1, y1 = self.rects.T
        if self.words and ((x0 < 0) | (y0 < 0) | (x1 < x0) | (y1 < y0) | (x1 > width) | (y1 > height)).any():
            raise ValueError(f"a bitmap lies outside the frame of {height} x {width} pixels")
        for words, (left, top, right, bottom) in zip(self.words, self.rects.tolist(), strict=True):
            if words.shape != (bottom - top, words_per_row(right - left)) or words.dtype != WORD:
                msg = f"a bitmap of {bottom - top} x {right - left} pixels cannot be {words.dtype} {words.shape}"
                raise ValueError(msg)
        self.rects.setflags(write=False)

    # How they are made

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Masks:
        """Return masks of no objects in a frame of (height, width) pixels."""
        return cls.from_bitmaps([], np.zeros((0, 2), np.int32), shape)

    @classmethod
    def from_bitmaps(cls, bitmaps: Sequence[NDArray[Any]], offsets: ArrayLike, shape: tuple[int, int]) -> Masks:
        """Return masks of box-sized bitmaps.

        Args:
            bitmaps: For each object (h, w), anything but zero is on.
            offsets: (N, 2), x and y of each bitmap's first pixel.
            shape: (height, width) of the frame.
        """
        corners = np.asarray(offsets, np.int32).reshape(-1, 2)
        sizes = np.array([bitmap.shape[::-1] for bitmap in bitmaps], np.int32).reshape(-1, 2)
        return cls(
            frame=shape,
            rects=np.concatenate([corners, corners + sizes], axis=1),
            words=tuple(pack(bitmap) for bitmap in bitmaps),
            orig_shape=shape,
            image=(0, 0, shape[1], shape[0]),
        )

    @classmethod
    def from_bits(
        cls, bits: Sequence[tuple[NDArray[np.uint64], tuple[int, int, int, int]]], shape: tuple[int, int]
    ) -> Masks:
        """Return masks of packed bits and their rectangles x0, y0, x1, y1 in a frame of (height, width) pixels."""
        return cls(
            frame=shape,
            rects=np.array([rect for _, rect in bits], np.int32).reshape(-1, 4),
            words=tuple(words for words, _ in bits),
            orig_shape=shape,
            image=(0, 0, shape[1], shape[0]),
        )

    @classmethod
    def from_dense(cls, data: ArrayLike, orig_shape: tuple[int, int] | None = None) -> Masks:
        """Return masks of an (N, H, W) array in which anything but zero is on."""
        dense = np.asarray(to_numpy(data))
        if dense.ndim != 3:
            raise ValueError(f"dense masks have the shape (N, H, W), not {dense.shape}")
        bitmaps, offsets = [], []
        for mask in dense:
            x, y, width, height = cv2.boundingRect((mask != 0).view(np.uint8))
            bitmaps.append(mask[y : y + height, x : x + width])
            offsets.append((x, y))
        masks = cls.from_bitmaps(bitmaps, offsets, (dense.shape[1], dense.shape[2]))
        return masks if orig_shape is None else dataclasses.replace(masks, orig_shape=orig_shape)

    @classmethod
    def from_rle(cls, items: Sequence[Mapping[str, Any]], shape: tuple[int, int] | None = None) -> Masks:
        """Return masks of COCO RLE: ``{"size": [h, w], "counts": bytes, text or a list of numbers}``.

        Args:
            items: One for each object, all of one size.
            shape: (height, width) of the frame; needed only when there are no items.

        Raises:
            ValueError: Sizes differ, or counts do not fill the frame.
        """
        if shape is None and not items:
            raise ValueError("masks of no objects need the shape of their frame")
        height, width = shape or items[0]["size"]
        bitmaps, offsets = [], []
        for item in items:
            if tuple(item["size"]) != (height, width):
                raise ValueError(f"RLE of {item['size']} in a frame of {[height, width]}")
            bitmap, offset = rle_codec.to_bitmap(rle_codec.counts_of(item["counts"]), height, width)
            bitmaps.append(bitmap)
            offsets.append(offset)
        return cls.from_bitmaps(bitmaps, offsets, (int(height), int(width)))

    @classmethod
    def from_polygons(cls, objects: Sequence[Sequence[Polygon | ArrayLike]], shape: tuple[int, int]) -> Masks:
        """Return masks of polygons, filled as the COCO API fills them; holes by the even-odd rule.

        Args:
            objects: For each object its parts; a part is a :class:`Polygon` or an (M, 2) ring. Parts are united.
            shape: (height, width) of the frame; what lies outside is cut off.
        """
        return cls.from_bits(fill(Rings.of(objects), len(objects), shape), shape)

    # How they are read

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: Any) -> Masks:
        """Return the masks an index, a slice, a list of numbers or a boolean array picks."""
        chosen = np.atleast_1d(np.asarray(ResultArray.of(np.arange(len(self)))[index]))
        some = object.__new__(type(self))  # what is chosen from has been looked at: not again
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        parts |= {"rects": self.rects[chosen], "words": tuple(self.words[i] for i in chosen.tolist())}
        parts["rects"].setflags(write=False)
        if "area" in self.__dict__:  # counted already
            parts["area"] = self.area[chosen]
        some.__dict__.update(parts)
        return some

    def __iter__(self) -> Iterator[Masks]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Masks({len(self)} in {self.frame[0]} x {self.frame[1]})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W): the shape of :attr:`data`."""
        return (len(self), *self.frame)

    @property
    def nbytes(self) -> int:
        """Bytes held by the bitmaps."""
        return sum(words.nbytes for words in self.words)

    def bitmap(self, index: int) -> NDArray[np.bool_]:
        """Return one object's own bitmap, (h, w); where it lies is ``rects[index]``."""
        x0, _, x1, _ = self.rects[index]
        return unpack(self.words[index], int(x1 - x0))

    @property
    def data(self) -> ResultArray:
        """uint8 (N, H, W), 1 where the object is: N times the frame in memory, made anew at each call."""
        dense = np.zeros(self.shape, np.uint8)
        for i, (x0, y0, x1, y1) in enumerate(self.rects.tolist()):
            dense[i, y0:y1, x0:x1] = self.bitmap(i)
        return ResultArray.of(dense)

    @cached_property
    def area(self) -> NDArray[np.int64]:
        """int64 (N,), pixels of the frame that are on."""
        return np.array([_POPCOUNT[words.view(np.uint8)].sum(dtype=np.int64) for words in self.words], np.int64)

    @cached_property
    def bounds(self) -> NDArray[np.int32]:
        """int32 (N, 4), the smallest rectangle x0, y0, x1, y1 (exclusive) that holds what is on; zeros for nothing."""
        tight = [cv2.boundingRect(self.bitmap(i).view(np.uint8)) for i in range(len(self))]
        x, y, width, height = np.array(tight, np.int32).reshape(-1, 4).T
        x, y = x + self.rects[:, 0], y + self.rects[:, 1]
        return np.where(width[:, None] > 0, np.stack([x, y, x + width, y + height], axis=1), 0).astype(np.int32)

    @cached_property
    def xy(self) -> list[ResultArray]:
        """For each object float32 (M, 2): the outline of its largest part, in pixels of the original image.

        The points are the centres of the outermost pixels, numbered as OpenCV numbers them. One ring cannot tell
        holes or several parts; :attr:`polygons` does.
        """
        rings = []
        for i, (x0, y0, _, _) in enumerate(self.rects.tolist()):
            found, _ = cv2.findContours(self.bitmap(i).view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            ring = max(found, key=cv2.contourArea).reshape(-1, 2) if found else np.zeros((0, 2))
            rings.append(ResultArray.of(self._to_image(ring, (x0, y0), centre=0.5)))
        return rings

    @property
    def xyn(self) -> list[ResultArray]:
        """:attr:`xy` divided by the width and height of the original image."""
        size = np.array(self.orig_shape[::-1], np.float32)
        return [ResultArray.of(ring / size) for ring in self.xy]

    @cached_property
    def polygons(self) -> list[list[Polygon]]:
        """For each object its connected parts with their holes, in continuous pixels of the original image.

        Outlines run midway between the pixels that are on and those that are off, so that in a frame of the
        image's size :meth:`from_polygons` gives back exactly these masks.
        """
        return [
            [
                Polygon(
                    exterior=self._to_image(part.exterior, (x0, y0), centre=0.0),
                    holes=tuple(self._to_image(hole, (x0, y0), centre=0.0) for hole in part.holes),
                )
                for part in trace(self.bitmap(i))
            ]
            for i, (x0, y0, _, _) in enumerate(self.rects.tolist())
        ]

    @cached_property
    def rle(self) -> list[RLE]:
        """For each object COCO's compressed RLE, equal to what pycocotools writes for the same frame."""
        height, width = self.frame
        encoded = []
        for i, (x0, y0, _, _) in enumerate(self.rects.tolist()):
            counts = rle_codec.from_bitmap(self.bitmap(i), (x0, y0), height, width)
            encoded.append(RLE(size=[height, width], counts=rle_codec.compress(counts)))
        return encoded

    def iou(
        self,
        other: Masks,
        *,
        crowd: NDArray[np.bool_] | None = None,
        least: float | NDArray[np.float64] = 0.0,
        among: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float64]:
        """Return float64 (N, M), intersection over union of each of these with each of those; 0 for two empty masks.

        Only the pixels that two rectangles share are looked at.

        Args:
            other: Masks in the same frame.
            crowd: bool (M,): over the area of these masks alone, as COCO counts for crowds.
            least: Overlaps that cannot reach this are not counted and given as 0; one for all, or (N, 1).
            among: bool (N, M): the pairs that are wanted; the others are given as 0.

        Raises:
            ValueError: The frames differ.
        """
        if self.frame != other.frame:
            raise ValueError(f"masks in frames of {self.frame} and {other.frame} pixels cannot be compared")
        own, their = self.area.astype(np.float64), other.area.astype(np.float64)
        most = intersection(self.rects.astype(np.float64), other.rects.astype(np.float64))
        most = np.minimum(most, np.minimum(own[:, None], their[None]))
        possible = (most > 0) & (over_union(most, own, their, crowd) >= least)
        if among is not None:
            possible &= among
        low = np.maximum(self.rects[:, None, :2], other.rects[None, :, :2])
        high = np.minimum(self.rects[:, None, 2:], other.rects[None, :, 2:])
        shared = np.zeros(possible.shape)
        unpacked: dict[int, NDArray[np.bool_]] = {}
        for i in np.flatnonzero(possible.any(axis=1)).tolist():
            mine = self.bitmap(i)
            for j in np.flatnonzero(possible[i]).tolist():
                theirs = unpacked[j] if j in unpacked else unpacked.setdefault(j, other.bitmap(j))
                window = (*low[i, j].tolist(), *high[i, j].tolist())
                overlap = _window(mine, self.rects[i], window) & _window(theirs, other.rects[j], window)
                shared[i, j] = np.count_nonzero(overlap)
        return np.asarray(over_union(shared, own, their, crowd))

    def _to_image(self, points: NDArray[Any], corner: tuple[int, int], *, centre: float) -> NDArray[np.float32]:
        """Move points from a bitmap at ``corner`` of the frame to the original image.

        ``centre`` is where the centre of a pixel lies from its number: 0.5 where points number pixels, else 0.
        """
        left, top, width, height = self.image
        size = np.array(self.orig_shape[::-1], np.float64)
        moved = (points + np.subtract(corner, (left, top)) + centre) * (size / (width, height)) - centre
        return np.asarray(np.clip(moved, 0, size - 2 * centre), np.float32)


def _window(bitmap: NDArray[np.bool_], rect: NDArray[np.int32], window: Sequence[int]) -> NDArray[np.bool_]:
    """Return the part of a bitmap lying at ``rect`` that a rectangle of the frame covers."""
    x0, y0 = int(rect[0]), int(rect[1])
    return bitmap[window[1] - y0 : window[3] - y0, window[0] - x0 : window[2] - x0]
