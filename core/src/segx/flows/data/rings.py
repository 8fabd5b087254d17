"""One ring out of several: what a format needs that writes an object as a single outline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segx.masks import Polygon


def one_ring(parts: Sequence[Polygon]) -> NDArray[np.float64]:
    """Return one ring (points, 2) that encloses the parts and leaves their holes out.

    Rings are joined by cuts without width between their nearest points, holes running the other way round, so that a
    fill of the ring by the even-odd or by the winding rule gives the object back.
    """
    outlines = [oriented(part.exterior, clockwise=True) for part in parts]
    holes = [oriented(hole, clockwise=False) for part in parts for hole in part.holes]
    rings = sorted(outlines, key=len, reverse=True) + holes
    joined = rings[0]
    rest = rings[1:]
    while rest:
        nearest = min(range(len(rest)), key=lambda i: _nearest(joined, rest[i])[0])
        ring = rest.pop(nearest)
        _, at, start = _nearest(joined, ring)
        walk = np.concatenate([ring[start:], ring[: start + 1]])
        joined = np.concatenate([joined[: at + 1], walk, joined[at:]])
    return joined


def oriented(ring: NDArray[Any], *, clockwise: bool) -> NDArray[np.float64]:
    """Return a ring that runs clockwise on the screen, or the other way round."""
    x, y = np.asarray(ring, np.float64).T
    turns_clockwise = float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) > 0
    points = np.asarray(ring, np.float64)
    return points if turns_clockwise is clockwise else points[::-1]


def _nearest(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, int, int]:
    """Return the smallest squared distance between points of two rings, and which points these are."""
    distance = ((one[:, None] - other[None]) ** 2).sum(axis=2)
    place = int(distance.argmin())
    at, start = divmod(place, len(other))
    return float(distance.flat[place]), at, start
