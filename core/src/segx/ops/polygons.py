"""Polygons to bitmaps and back: the rasteriser, the tracer, areas, clipping, one ring out of several."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from segx.ops.bits import BITS, WORD, words_per_row
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

Rect = tuple[int, int, int, int]

_SUBPIXELS = 5
"""The COCO API draws outlines at five times the resolution."""
_FAR = 1e8
"""Sub-pixels at most from the origin, so that hostile numbers stay exact."""


class Polygon(Record):
    """One connected part of an object.

    Attributes:
        exterior: float32 (M, 2), x and y of the outline in continuous pixels; the last point joins the first.
        holes: The outlines of its holes, in the same form.
    """

    exterior: NDArray[np.float32]
    holes: tuple[NDArray[np.float32], ...] = ()


class Rings(NamedTuple):
    """The outlines of many objects as four long arrays.

    A part is what its rings enclose by the even-odd rule; an object is the union of its parts.

    Attributes:
        xy: float64 (points, 2), x and y of all rings in pixels, one after the other; the last point of a ring joins
            its first.
        starts: int64 (rings + 1), where each ring begins in ``xy``; no ring is empty.
        parts: int64 (rings), the part each ring belongs to, ascending.
        owners: int64 (parts), the object each part belongs to, ascending.
    """

    xy: NDArray[np.float64]
    starts: NDArray[np.int64]
    parts: NDArray[np.int64]
    owners: NDArray[np.int64]

    @classmethod
    def of(cls, objects: Sequence[Sequence[Polygon | ArrayLike]]) -> Rings:
        """Return the rings of objects: for each a list of parts, :class:`Polygon` or a ring (points, 2)."""
        rings = [np.zeros((0, 2))]
        parts: list[int] = []
        owners: list[int] = []
        for owner, polygons in enumerate(objects):
            for part in polygons:
                outlines = [part.exterior, *part.holes] if isinstance(part, Polygon) else [part]
                kept = [points for ring in outlines if (points := np.asarray(ring, np.float64).reshape(-1, 2)).size]
                rings += kept
                parts += [len(owners)] * len(kept)
                owners.append(owner)
        sizes = np.cumsum([len(ring) for ring in rings])
        return cls(np.concatenate(rings), sizes, np.array(parts, np.int64), np.array(owners, np.int64))


def fill(rings: Rings, count: int, shape: tuple[int, int]) -> list[tuple[NDArray[np.uint64], Rect]]:
    """Return the pixels that objects enclose, pixel for pixel as the COCO API fills polygons.

    Outlines are drawn at five times the resolution; where one crosses the centre of a column of pixels, the column
    turns on or off from there down. All objects are done at once, straight to bits.

    Source: ``rleFrPoly`` of the COCO API (Lin et al., "Microsoft COCO: Common Objects in Context", ``maskApi``).

    Args:
        rings: The outlines.
        count: Number of objects.
        shape: (height, width) of the frame; what lies outside is cut off.

    Returns:
        For each object its bits, as :func:`segx.ops.bits.pack` packs them, and their rectangle x0, y0, x1, y1.
    """
    xy, starts, parts, owners = rings
    point, column, row = _crossings(xy, starts, shape)
    ring = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    part_of = parts[ring[point]]
    first = np.flatnonzero(np.diff(part_of, prepend=-1))
    seen = part_of[first]
    found: list[tuple[NDArray[np.uint64], Rect]] = [(np.zeros((0, 1), WORD), (0, 0, 0, 0))] * count
    if not seen.size:
        return found
    owner_of = owners[seen]
    first_part = np.flatnonzero(np.diff(owner_of, prepend=-1))
    owned = owner_of[first_part]
    low = np.stack([np.minimum.reduceat(column, first), np.minimum.reduceat(row, first)], axis=1)
    high = np.stack([np.maximum.reduceat(column, first) + 1, np.maximum.reduceat(row, first)], axis=1)
    rects = np.concatenate([np.minimum.reduceat(low, first_part), np.maximum.reduceat(high, first_part)], axis=1)
    left = rects[np.searchsorted(owned, owner_of), 0]
    low[:, 0] -= (low[:, 0] - left) % 64  # so that words of parts lie on words of their object
    width = (high[:, 0] - low[:, 0]) // 64 + 1  # as words_per_row has it
    height = high[:, 1] - low[:, 1] + 1  # below the last row everything is off again
    base = np.concatenate([[0], np.cumsum(width * height)])
    place = np.repeat(np.arange(len(seen)), np.diff(first, append=len(part_of)))
    across = column - low[place, 0]
    index = base[place] + (row - low[place, 1]) * width[place] + (across >> 6)
    words = np.zeros(base[-1], WORD)
    np.bitwise_xor.at(words, index, BITS[across & 63])
    windows = []
    for begin, end, stride in zip(base[:-1].tolist(), base[1:].tolist(), width.tolist(), strict=True):
        window = words[begin:end].reshape(-1, stride)
        np.bitwise_xor.accumulate(window, axis=0, out=window)
        windows.append(window[:-1])
    bounds = np.append(first_part, len(seen)).tolist()
    for number, owner in enumerate(owned.tolist()):
        x0, y0, x1, y1 = rects[number].tolist()
        begin, end = bounds[number : number + 2]
        if end - begin == 1:
            found[owner] = (windows[begin], (x0, y0, x1, y1))
            continue
        whole = np.zeros((y1 - y0, words_per_row(x1 - x0)), WORD)
        for window, (left, top) in zip(windows[begin:end], low[begin:end].tolist(), strict=True):
            skipped = (left - x0) // 64
            whole[top - y0 : top - y0 + len(window), skipped : skipped + window.shape[1]] |= window
        found[owner] = (whole, (x0, y0, x1, y1))
    return found


def _crossings(
    xy: NDArray[np.float64], starts: NDArray[np.int64], shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return where edges cross the centres of columns: the point each edge begins at, the column, the row below.

    Edges are walked as the COCO API does: along the axis on which they are longer, from the lower end, the other
    coordinate rounded to sub-pixels; between sub-pixels 2 and 3 of a column lies its centre.
    """
    height, width = shape
    fine = np.trunc(np.fmin(np.fmax(xy * _SUBPIXELS + 0.5, -_FAR), _FAR))  # fmin, fmax: NaN is far away too
    following = _following(starts)
    columns = np.floor((fine[:, 0] + 2) / _SUBPIXELS).clip(0, width).astype(np.int64)
    number = np.abs(columns[following] - columns)
    edges = np.flatnonzero(number)
    number, first = number[edges], np.minimum(columns, columns[following])[edges]
    begin, end = fine[edges], fine[following[edges]]
    span = end - begin
    steep = np.abs(span[:, 1]) > np.abs(span[:, 0])
    backwards = np.where(steep, span[:, 1], span[:, 0]) < 0
    x, y = np.where(backwards[:, None], end, begin).T
    slope = np.where(steep, span[:, 0], span[:, 1]) / np.where(steep, span[:, 1], span[:, 0])
    every = np.repeat(np.arange(len(edges)), number)
    column = np.arange(len(every)) + np.repeat(first - np.cumsum(number) + number, number)
    steep, slope, x, y = steep[every], slope[every], x[every], y[every]
    along = _SUBPIXELS * column + 2 - x
    rising = slope > 0
    with np.errstate(divide="ignore", invalid="ignore"):  # of level edges, which are no steep ones
        step = np.where(steep, np.floor((along + 0.5) / slope + 1e-8), along + (slope < 0))
    reached = np.trunc(np.where(steep, x, y) + slope * step + 0.5)
    passed = (reached > x + along) == rising  # rounding decides, as there, on which side of the centre a step lies
    level = np.where(steep, y + step - passed, reached)
    row = np.floor((level + 2) / _SUBPIXELS).clip(0, height).astype(np.int64)
    return edges[every], column, row


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
    points = np.asarray(ring, np.float64)
    return points if (_turn(points) > 0) is clockwise else points[::-1]


def area(ring: NDArray[np.floating[Any]]) -> float:
    """Return the area that a ring (points, 2) encloses once (shoelace formula); lobes that turn otherwise lessen it."""
    return abs(_turn(ring)) / 2


def areas(xy: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (rings,), what :func:`area` does of rings one after another, as in :class:`Rings`."""
    return np.asarray(np.abs(_turns(xy, starts)) / 2)


def _turn(ring: NDArray[np.floating[Any]]) -> float:
    return float(_turns(np.asarray(ring, np.float64) - ring[:1], np.array([0, len(ring)]))[0])


def _turns(xy: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return twice the area that each ring encloses, positive where it runs clockwise on the screen."""
    following = _following(starts)
    x, y = xy.T
    return np.asarray(np.add.reduceat(x * y[following] - x[following] * y, starts[:-1]))


def _following(starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (points,), the number of the point that follows each in its ring."""
    following = np.arange(1, starts[-1] + 1)
    following[starts[1:] - 1] = starts[:-1]
    return following


_LEVELS = 64
"""Heights of corners at most between which an outline whose lobes cancel is looked at."""
_BETWEEN = np.array([0.31, 0.73])
"""Where between them: at two places, for at one of them its lobes may meet."""


def encloses(ring: NDArray[np.floating[Any]]) -> bool:
    """Return True if a ring (points, 2) encloses anything, even-odd: equal lobes do, a line there and back does not."""
    points = np.asarray(ring, np.float64)
    width, height = np.ptp(points, axis=0).tolist()
    least = 1e-9 * width * height
    if area(points) > least:
        return True
    if not least:
        return False
    heights = np.unique(points[:, 1])
    heights = heights[:: -(-len(heights) // _LEVELS)]
    between = heights[:-1, None] + np.diff(heights)[:, None] * _BETWEEN
    following = np.roll(points, -1, axis=0)
    for level in between.ravel().tolist():
        crossing = (points[:, 1] > level) != (following[:, 1] > level)
        one, other = points[crossing], following[crossing]
        x = np.sort(one[:, 0] + (level - one[:, 1]) / (other[:, 1] - one[:, 1]) * (other[:, 0] - one[:, 0]))
        if (x[1::2] - x[0::2] > 1e-9 * width).any():
            return True
    return False


def clip(ring: NDArray[np.floating[Any]], width: float, height: float) -> NDArray[np.float64]:
    """Return the part of a ring (points, 2) inside 0..width, 0..height; (0, 2) where none is: :func:`clip_rings`."""
    points = np.asarray(ring, np.float64)
    return clip_rings(points, np.array([0, len(points)]), width, height)[0]


def clip_rings(
    xy: NDArray[np.float64], starts: NDArray[np.int64], width: float, height: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the parts of rings inside 0..width, 0..height, where each begins, and the number of the ring it was.

    Parts that the frame divides stay joined along its edge, without width.
    Source: I. E. Sutherland and G. W. Hodgman, "Reentrant Polygon Clipping", CACM 17(1), 1974.

    Args:
        xy: float64 (points, 2), rings one after another, as in :class:`Rings`.
        starts: int64 (rings + 1), where each begins.
        width: Of the frame.
        height: Of the frame.
    """
    number = np.arange(len(starts) - 1)
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        inside = sign * (xy[:, axis] - limit) >= 0
        if inside.all():
            continue
        following = _following(starts)
        crossing = inside != inside[following]
        kept = np.stack([inside, crossing], axis=1)
        cut = xy[crossing]
        span = xy[following[crossing]] - cut
        cut += ((limit - cut[:, axis]) / span[:, axis])[:, None] * span
        cut[:, axis] = limit
        both = np.empty((len(xy), 2, 2))
        both[:, 0], both[crossing, 1] = xy, cut
        sizes = np.add.reduceat(kept.sum(axis=1), starts[:-1])
        xy, number, sizes = both[kept], number[sizes > 0], sizes[sizes > 0]
        starts = np.concatenate([[0], np.cumsum(sizes)])
    return xy.clip(0, [width, height]), starts, number
