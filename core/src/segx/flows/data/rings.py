"""One ring out of several: what a format needs that writes an object as a single outline."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segx.masks import Polygon

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
