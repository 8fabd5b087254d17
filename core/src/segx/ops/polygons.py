"""Outlines to bitmaps and back: the rasteriser, tracing, areas, one ring out of several."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segx.ops.bits import fill_between, unpack, words_per_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, kw_only=True)
class Polygon:
    """One connected part of an object.

    Attributes:
        exterior: float32 (M, 2), x and y of the outline in continuous pixels; the last point joins the first.
        holes: The outlines of its holes, in the same form.
    """

    exterior: NDArray[np.float32]
    holes: tuple[NDArray[np.float32], ...] = ()


def trace(bitmap: NDArray[np.bool_]) -> list[Polygon]:
    """Return the parts and holes of a bitmap, outlined midway between on and off (marching squares at one half).

    OpenCV follows the centres of border pixels, so it is given a lattice of half pixels: centres, edges and corners
    of pixels, where an edge belongs to either of its pixels and a corner to any two neighbours round it.
    """
    height, width = bitmap.shape
    padded = np.zeros((height + 2, width + 2), np.uint8)
    padded[1:-1, 1:-1] = bitmap
    lattice = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    up, down = padded[:-1], padded[1:]
    lattice[1::2, 1::2] = bitmap
    lattice[0::2, 1::2] = (up | down)[:, 1:-1]
    lattice[1::2, 0::2] = padded[1:-1, :-1] | padded[1:-1, 1:]
    both = up & down
    lattice[0::2, 0::2] = (both[:, :-1] | both[:, 1:]) | (up[:, :-1] & up[:, 1:]) | (down[:, :-1] & down[:, 1:])
    contours, hierarchy = cv2.findContours(lattice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return []
    rings = [(contour.reshape(-1, 2) / 2).astype(np.float32) for contour in contours]
    parents = hierarchy[0, :, 3].tolist()
    holes: dict[int, list[NDArray[np.float32]]] = {i: [] for i, parent in enumerate(parents) if parent < 0}
    for ring, parent in zip(rings, parents, strict=True):
        if parent >= 0:
            holes[parent].append(ring)
    return [Polygon(exterior=rings[i], holes=tuple(inner)) for i, inner in holes.items()]


def fill_parts(
    parts: Sequence[Polygon | ArrayLike], shape: tuple[int, int]
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """Return the union of the parts as a bitmap and its offset (x, y)."""
    rings_of_parts = [_rings(part) for part in parts]
    points = [ring for rings in rings_of_parts for ring in rings if len(ring)]
    if not points:
        return np.zeros((0, 0), np.bool_), (0, 0)
    every = np.concatenate(points)
    size = np.array(shape[::-1])
    x0, y0 = np.clip(np.floor(every.min(axis=0)), 0, size).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(every.max(axis=0)), (x0, y0), size).astype(int).tolist()
    bitmap = np.zeros((y1 - y0, x1 - x0), np.bool_)
    for rings in rings_of_parts:
        bitmap |= fill_rings([ring - (x0, y0) for ring in rings], y1 - y0, x1 - x0)
    return bitmap, (x0, y0)


def _rings(part: Polygon | ArrayLike) -> list[NDArray[np.float64]]:
    rings: Sequence[ArrayLike] = [part.exterior, *part.holes] if isinstance(part, Polygon) else [part]
    return [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]


def fill_rings(rings: Sequence[NDArray[np.float64]], height: int, width: int) -> NDArray[np.bool_]:
    """Return bool (height, width): pixels whose centre is inside an odd number of the closed rings (M, 2) of x, y."""
    stride = words_per_row(width)
    toggles = [_crossings(ring, height, width) for ring in rings if len(ring) > 2]
    if not toggles or height == 0 or width == 0:
        return np.zeros((height, width), np.bool_)
    rows, columns = np.concatenate(toggles, axis=1)
    positions = np.sort(rows * (stride * 64) + columns)
    return unpack(fill_between(positions, height * stride).reshape(height, stride), width)


def _crossings(ring: NDArray[np.float64], height: int, width: int) -> NDArray[np.int64]:
    """Return (2, K): for each edge and each row centre it crosses, the row and the first column to its right."""
    start, end = ring, np.roll(ring, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64)
    number = last - first
    edge = np.repeat(np.arange(len(ring)), number)
    row = np.arange(edge.size) - np.repeat(np.cumsum(number) - number, number) + first[edge]
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
    return np.stack([row, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)])


_AT_ONCE = 1 << 21
"""Distances that are held at a time."""


def one_ring(parts: Sequence[Polygon]) -> NDArray[np.float64]:
    """Return one ring (points, 2) that encloses the parts and leaves their holes out.

    Rings are joined by cuts without width between their nearest points, holes running the other way round, so that a
    fill of the ring by the even-odd or by the winding rule gives the object back.
    """
    outlines = [oriented(part.exterior, clockwise=True) for part in parts]
    holes = [oriented(hole, clockwise=False) for part in parts for hole in part.holes]
    rings = sorted(outlines, key=len, reverse=True) + holes
    points, firsts = np.concatenate(rings), np.cumsum([0, *map(len, rings)])
    owner = np.repeat(np.arange(len(rings)), np.diff(firsts))
    cuts = _cuts(points, firsts, owner)
    order: list[int] = []
    waiting = [(point, True) for point in reversed(range(firsts[1]))]
    while waiting:
        point, first_time = waiting.pop()
        order.append(point)
        for start in reversed(cuts[point] if first_time else []):
            begin, end = firsts[owner[start]], firsts[owner[start] + 1]
            waiting += [(point, False), (start, False)]  # round the other ring, and back over the cut
            waiting += [(other, True) for other in reversed([*range(start, end), *range(begin, start)])]
    return np.asarray(points[order], np.float64)


def _cuts(
    points: NDArray[np.float64], firsts: NDArray[np.int64], owner: NDArray[np.int64]
) -> defaultdict[int, list[int]]:
    """Return from which point to which points of other rings cuts lead: always to the ring that is nearest.

    Each point keeps its nearest one of what is joined, and looks at what joins only: Prim's spanning tree.
    """
    distance, nearest = np.full(len(points), np.inf), np.zeros(len(points), np.int64)
    apart = owner != 0
    cuts: defaultdict[int, list[int]] = defaultdict(list)
    newest = 0
    while apart.any():
        rest = np.flatnonzero(apart)
        step = max(_AT_ONCE // len(rest), 1)
        for begin in range(firsts[newest], firsts[newest + 1], step):
            joined = points[begin : min(begin + step, firsts[newest + 1])]
            square = ((points[rest][:, None] - joined[None]) ** 2).sum(axis=2)
            at, least = square.argmin(axis=1), square.min(axis=1)
            closer = least < distance[rest]
            distance[rest[closer]], nearest[rest[closer]] = least[closer], begin + at[closer]
        start = int(rest[distance[rest].argmin()])
        cuts[int(nearest[start])].append(start)
        newest = int(owner[start])
        apart[firsts[newest] : firsts[newest + 1]] = False
    return cuts


def oriented(ring: NDArray[Any], *, clockwise: bool) -> NDArray[np.float64]:
    """Return a ring that runs clockwise on the screen, or the other way round."""
    x, y = np.asarray(ring, np.float64).T
    turns_clockwise = float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) > 0
    points = np.asarray(ring, np.float64)
    return points if turns_clockwise is clockwise else points[::-1]


def ring_area(ring: NDArray[np.float32]) -> float:
    """Return the area that a ring (points, 2) encloses."""
    x, y = (ring - ring[0]).astype(np.float64).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
